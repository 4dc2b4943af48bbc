"""From a passing verdict to a settled version, or back: promoting, ramping, watching, rolling back.

Owns: what follows in the phases that touch traffic. Refuses to know targets. Called by `policies.decide`. A pause holds
the next share of traffic, never a promotion that is half done and never a way back.
"""

from policies.actions import Action, Promote, Ramp, Rollback, Settle, Wait, Watch
from policies.commands import candidate_name, retreat, rollback_to, wish
from policies.model import Snapshot
from policies.policy import Policy
from policies.watch import Judgement, judge
from policies.words import duration, percent

HOUR = 3600.0


def promote(snapshot: Snapshot, policy: Policy, name: str, reason: str, command: int = 0) -> Promote:
    """Promote `name` to the first share that the target can give it."""
    steps = policy.rollout.steps
    share = steps[0] if snapshot.target_splits and steps else 1.0
    return Promote(reason, name, share, command)


def _asked_back(snapshot: Snapshot) -> Rollback | None:
    command = wish(snapshot, "rollback")
    to = rollback_to(command, snapshot) if command is not None else ""
    if command is None or not to:
        return None
    # A wish for yet another version stays open: from idle it is carried out as asked.
    mine = command.id if command.version in {"", to} else 0
    return Rollback(f"{command.actor} asked to serve {to} again: {command.reason or 'no reason given'}", to, mine)


def _back(snapshot: Snapshot, reason: str) -> Action:
    to = retreat(snapshot)
    if not to:
        return Wait(f"{reason}; but there is no version to go back to: a person must act", "stuck")
    return Rollback(reason, to)


def promoting(snapshot: Snapshot, policy: Policy) -> Action:
    """Bring a promotion to its end, or to the champion that never stopped being one."""
    asked = _asked_back(snapshot)
    if asked is not None:
        return asked
    name, job, attempt = candidate_name(snapshot), snapshot.job, snapshot.attempt
    if snapshot.rolling_back_to or (attempt.count > 0 and attempt.action.lower() == "rollback"):
        return _back(snapshot, f"the rollback is not finished ({attempt.error or 'the target is away'})")
    if snapshot.cycle is None or not name:
        return _back(snapshot, "promoting, but nobody knows which version")
    if attempt.count >= policy.rollout.attempts:
        return _back(
            snapshot, f"promoting {name} failed {attempt.count} times: {attempt.error or 'the target is away'}"
        )
    if job is not None and job.kind == "prove" and job.state == "running":
        if 0 < job.deadline < snapshot.now:
            return _back(snapshot, f"the target did not prove in time that it serves {name}")
        return Wait(f"promoting {name}: {job.progress or 'the target is asked to prove it'}", "promoting")
    return promote(snapshot, policy, name, f"promoting {name}: taking the next step")


def _live(snapshot: Snapshot, policy: Policy) -> Judgement | None:
    view = snapshot.watch
    return None if view is None else judge(view, policy.watch, snapshot.now)


def ramping(snapshot: Snapshot, policy: Policy) -> Action:
    """Give the promoted version its next share once it has dwelt on the last one and nobody proved it worse."""
    asked = _asked_back(snapshot)
    if asked is not None:
        return asked
    live, name, steps = _live(snapshot, policy), candidate_name(snapshot), policy.rollout.steps or (1.0,)
    if live is not None and live.state == "regressed":
        return _back(snapshot, live.reason)
    if not name:
        return _back(snapshot, "ramping, but nobody knows which version")
    step = max(0, min(snapshot.ramp_step, len(steps) - 1))
    seen = f"{name} has {percent(steps[step])} of the traffic"
    if snapshot.paused_by:
        return Wait(f"{seen}; paused by {snapshot.paused_by}: learnctl resume", "paused")
    dwell = policy.rollout.dwell_hours * HOUR
    # Without the time of the last step, every step so far is counted: too long rather than too short.
    until = snapshot.ramp_since + dwell if snapshot.ramp_since else snapshot.phase_since + (step + 1) * dwell
    if snapshot.now < until:
        return Wait(f"{seen}; the next step in {duration(until - snapshot.now)}", "ramping")
    after = min(step + 1, len(steps) - 1)
    return Ramp(f"{seen} and nobody proved it worse: on to {percent(steps[after])}", name, steps[after], after)


def watching(snapshot: Snapshot, policy: Policy) -> Action:
    """Look at live ratings until they settle the version, send it back, or the deadline passes."""
    asked = _asked_back(snapshot)
    if asked is not None:
        return asked
    live = _live(snapshot, policy)
    if live is None:
        gone, deadline = snapshot.now - snapshot.phase_since, policy.watch.deadline_hours * HOUR
        if gone >= deadline:
            return Settle(f"unproven after {duration(deadline)}: no rating was seen", proven=False)
        return Watch(f"watching: no rating yet; {duration(gone)} of at most {duration(deadline)}", "watching")
    if live.state == "settled":
        return Settle(live.reason, proven=True)
    if live.state == "regressed":
        back = _back(snapshot, live.reason)
        # With nothing to go back to the watch still ends some day, and says so until then.
        return back if isinstance(back, Rollback) else Watch(back.reason, "stuck")
    if live.state == "unproven":
        return Settle(live.reason, proven=False)
    return Watch(f"watching: {live.reason}", "watching")


def rolling_back(snapshot: Snapshot, policy: Policy) -> Action:  # noqa: ARG001 - one shape for every phase
    """Try until the old version serves again: nothing holds it, nothing ends it but success."""
    asked = _asked_back(snapshot)
    if asked is not None:
        return asked
    to = snapshot.rolling_back_to or retreat(snapshot)
    if not to:
        return Wait("rolling back, but there is no version to go back to: a person must act", "stuck")
    return Rollback(f"rolling back to {to}: {snapshot.attempt.error or 'taking the next step'}", to)
