"""The one function that decides: a snapshot and a policy in, one action with its reason out.

Owns: what follows from each phase, total over all snapshots, also contradictory ones. Refuses to know how anything is
carried out or remembered. Called by `daemon.loop` once a tick a slot, and by `daemon.audit.replay`.
"""

from collections.abc import Callable

from policies import rollout
from policies.actions import Action, AskApproval, Cancel, Evaluate, Fail, Reject, Rollback, Train, Wait, Watch
from policies.commands import answer, candidate_name, rollback_to, wish
from policies.gates import enabled, for_step
from policies.method import choose
from policies.mixture import quotas
from policies.model import CommandView, CycleView, JobView, Mode, Outcome, Phase, Result, Snapshot, Verdict
from policies.policy import Policy
from policies.triggers import asks_proof, fired, held, why_not
from policies.words import count, duration, listed

__all__ = ["answer", "decide", "lacking"]

HOUR = 3600.0
LONGEST_RETRY = 900.0


def decide(snapshot: Snapshot, policy: Policy) -> Action:
    """What to do next. Never raises, never waits for anything but the next tick."""
    return _patient(_RULES[snapshot.phase](snapshot, policy), snapshot, policy)


def _patient(action: Action, snapshot: Snapshot, policy: Policy) -> Action:
    """An act that just failed for a passing reason is tried again later, and later each time."""
    attempt = snapshot.attempt
    again = not attempt.action or attempt.action.lower() == type(action).__name__.lower()
    if isinstance(action, Wait | Watch) or attempt.count <= 0 or not again:
        return action
    delay = min(policy.rollout.retry_seconds * 2.0 ** min(attempt.count - 1, 16), LONGEST_RETRY)
    left = attempt.last + delay - snapshot.now
    if left <= 0:
        return action
    tried = "once" if attempt.count == 1 else f"{attempt.count} times"
    said = attempt.error or "the world is away"
    return Wait(f"{action.reason}; tried {tried}: {said}; again in {duration(left)}", "retry")


def lacking(snapshot: Snapshot, policy: Policy) -> tuple[str, ...]:
    """What a slot still needs before it may learn, one sentence each; empty when nothing is missing."""
    rule, missing = policy.triggers, []
    if snapshot.champion is None:
        missing.append("no model is adopted: set `model` of the deployment")
    roles = {view.role for view in snapshot.sets if view.items > 0}
    wanted = {"goldens": "golden", "safety": "safety"}
    if enabled(policy.gates, "retention"):
        wanted["anchor"] = "anchor"
    for role, word in wanted.items():
        if role not in roles:
            missing.append(f"no {word} set is accepted: learnctl goldens import FILE --role {role}")
    if not snapshot.consent_set:
        missing.append("consent_default of the deployment is not set")
    usable, first = snapshot.counts.total, snapshot.past.window_end <= 0
    if first and usable < rule.minimum:
        missing.append(f"{count(usable)} of at least {count(rule.minimum)} usable records")
    if asks_proof(policy) and snapshot.judge_total < rule.judge_minimum:
        missing.append(f"{count(snapshot.judge_total)} of at least {count(rule.judge_minimum)} judge records")
    return tuple(missing)


def _paused(snapshot: Snapshot, what: str = "") -> Wait:
    return Wait(f"{what}{'; ' if what else ''}paused by {snapshot.paused_by}: learnctl resume", "paused")


def _gathering(snapshot: Snapshot, policy: Policy) -> Action:
    rollback = _rollback(snapshot)
    if rollback is not None:
        return rollback
    missing = lacking(snapshot, policy)
    if not missing:
        return Wait("gathered all that learning needs", "ready", Outcome.READY)
    return Wait(f"gathering: {'; '.join(missing)}", "gathering")


def _rollback(snapshot: Snapshot) -> Rollback | None:
    """The rollback that a person asked for, where there is something to go back to."""
    command = wish(snapshot, "rollback")
    to = rollback_to(command, snapshot) if command is not None else ""
    champion = snapshot.champion.name if snapshot.champion is not None else ""
    if command is None or not to or to == champion:
        return None
    return Rollback(f"{command.actor} asked to serve {to} again: {_why(command)}", to, command.id)


def _why(command: CommandView) -> str:
    return command.reason or "no reason given"


def _idle(snapshot: Snapshot, policy: Policy) -> Action:
    rollback = _rollback(snapshot)
    if rollback is not None:
        return rollback
    if snapshot.paused_by:
        return _paused(snapshot)
    missing = lacking(snapshot, policy)
    if missing:
        return Wait(f"back to gathering: {'; '.join(missing)}", "lacking", Outcome.LACKING)
    trigger = fired(snapshot, policy)
    if trigger is None:
        return Wait(why_not(snapshot, policy), "idle")
    hold = held(snapshot, policy, trigger)
    if hold is not None:
        return Wait(f"{trigger.reason}; but {hold.reason}", hold.cause)
    choice = choose(snapshot, policy, weigh=trigger.name != "command")
    if choice.method == "nothing":
        return Wait(f"{trigger.reason}; but {choice.reason}", "method")
    reason = f"{trigger.reason}; {choice.reason}"
    wait = _no_room(snapshot, reason)
    if wait is not None:
        return wait
    window = (snapshot.past.window_end, snapshot.head)
    mixture = quotas(snapshot.counts.total, policy.mixture, snapshot.seed, choice.method)
    return Train(
        reason, trigger.name, choice.method, choice.step, window, mixture, snapshot.seed, command=trigger.command
    )


def _called_off(snapshot: Snapshot) -> Cancel | None:
    """A rollback or a rejection ends what runs; the rollback itself comes in the next tick, so it stays open."""
    command = wish(snapshot, "rollback")
    if command is not None:
        return Cancel(f"{command.actor} asked for a rollback: {_why(command)}; what runs is stopped first")
    command = wish(snapshot, "reject")
    if command is not None:
        return Cancel(f"{command.actor} rejected it: {_why(command)}", command.id)
    return None


def _again(snapshot: Snapshot, policy: Policy, cycle: CycleView, why: str) -> Action:
    """The same job once more (same window, seed, method, step), as often as `losses` allows."""
    if cycle.losses >= policy.method.losses:
        return Fail(f"{why}, {cycle.losses + 1} times in this cycle")
    return _train(snapshot, policy, cycle, cycle.step, f"{why}: starting it again")


def _train(snapshot: Snapshot, policy: Policy, cycle: CycleView, step: str, reason: str) -> Action:
    if snapshot.paused_by:
        return _paused(snapshot, reason)
    wait = _no_room(snapshot, reason)
    if wait is not None:
        return wait
    mixture = quotas(snapshot.counts.total, policy.mixture, cycle.seed, cycle.method)
    return Train(reason, cycle.trigger, cycle.method, step, cycle.window, mixture, cycle.seed)


def _no_room(snapshot: Snapshot, reason: str) -> Wait | None:
    """Why no job may start now: one a slot, and only on an accelerator that was granted."""
    if snapshot.job is not None and snapshot.job.state == "running":
        return Wait(f"{reason}; waiting for the {snapshot.job.kind} job that still runs", "busy")
    if not snapshot.granted:
        return Wait(f"{reason}; waiting for the accelerator: {snapshot.not_granted or 'not granted yet'}", "gpu")
    return None


def _running(snapshot: Snapshot, job: JobView, cause: str) -> Action:
    if 0 < job.deadline < snapshot.now:
        late = duration(snapshot.now - job.deadline)
        return Fail(f"the {job.kind} job is {late} past its deadline")
    gone = duration(snapshot.now - job.started) if job.started else "not started yet"
    return Wait(f"{cause}: {job.progress or 'no progress told yet'}; {gone}", cause)


def _training(snapshot: Snapshot, policy: Policy) -> Action:
    cycle, job = snapshot.cycle, snapshot.job
    if cycle is None:
        return Fail("training, but no cycle is open")
    cancel = _called_off(snapshot)
    if cancel is not None:
        return cancel
    what = "teacher" if cycle.step == "teacher" else "candidate"
    if job is None or job.state == "absent":
        return _again(snapshot, policy, cycle, f"the job that trains the {what} is gone")
    if job.state == "running":
        return _running(snapshot, job, "training")
    if job.state == "done":
        return Evaluate(f"the {what} is trained: publishing and evaluating it")
    error = job.error or f"job state {job.state}"
    if job.state == "failed" and job.error_kind == "Transient":
        return _again(snapshot, policy, cycle, f"training the {what} broke off ({error})")
    return Fail(f"training the {what} failed: {error}")


def _evaluating(snapshot: Snapshot, policy: Policy) -> Action:
    cycle, job = snapshot.cycle, snapshot.job
    if cycle is None:
        return Fail("evaluating, but no cycle is open")
    cancel = _called_off(snapshot)
    if cancel is not None:
        return cancel
    if snapshot.verdicts_complete:
        return _judged(snapshot, policy, cycle)
    if job is not None and job.state == "running":
        return _running(snapshot, job, "evaluating")
    if job is None or job.state == "done":
        return Evaluate("evaluating: taking the next step")
    error = job.error or f"job state {job.state}"
    if job.state == "failed" and job.error_kind != "Transient":
        return Fail(f"the evaluation failed: {error}")
    if cycle.losses >= policy.method.losses:
        return Fail(f"the evaluation was lost {cycle.losses + 1} times in this cycle ({error})")
    return Evaluate(f"the evaluation was lost ({error}): starting it again")


def _answers(snapshot: Snapshot, step: str) -> tuple[list[Verdict], list[Verdict], list[str]]:
    """(failing, inconclusive, missing) of the gates of `step`: all three empty means that every one passed."""
    names = for_step(step)
    asked = [verdict for verdict in snapshot.verdicts if verdict.gate in names]
    failing = [verdict for verdict in asked if verdict.result is Result.FAIL]
    unsure = [verdict for verdict in asked if verdict.result is Result.INCONCLUSIVE]
    return failing, unsure, [name for name in names if all(verdict.gate != name for verdict in asked)]


def _refusal(snapshot: Snapshot, step: str) -> Reject | None:
    """The rejection that the verdicts ask for, None only when every gate of the step has passed."""
    failing, unsure, missing = _answers(snapshot, step)
    kind, word, against = "refused", "refused by", failing
    if not failing and not missing:
        if not unsure:
            return None
        kind, word, against = "inconclusive", "inconclusive for", unsure
    by = tuple(dict.fromkeys([verdict.gate for verdict in against] + missing))
    said = [f"{verdict.gate}: {verdict.reason}" for verdict in against] + [f"{name}: no verdict" for name in missing]
    who = "the teacher was " if step == "teacher" else ""
    return Reject(f"{who}{word} {listed(by)} ({'; '.join(said)})", kind, by)


def _judged(snapshot: Snapshot, policy: Policy, cycle: CycleView) -> Action:
    if snapshot.judged_under != policy.hash:
        return Evaluate("the policy changed since the verdicts: judging by the stricter of both")
    refusal = _refusal(snapshot, cycle.step)
    if refusal is not None:
        return refusal
    if cycle.step == "teacher":
        return _train(snapshot, policy, cycle, "candidate", "the teacher passed its gates: training the student on it")
    name = candidate_name(snapshot)
    if not name:
        return Fail("every gate passed, but nobody knows which version")
    command = wish(snapshot, "promote", "approve")
    if snapshot.paused_by:
        return _paused(snapshot, f"{name} passed every gate")
    if command is not None:
        said = f"{command.actor} approved {name}, which passed every gate: {_why(command)}"
        return rollout.promote(snapshot, policy, name, said, command.id)
    if policy.mode is Mode.SHADOW:
        return Reject(f"shadow: would have promoted {name}, which passed every gate", "shadow")
    if policy.mode is Mode.APPROVE:
        return AskApproval(f"{name} passed every gate: learnctl approve {name}")
    return rollout.promote(snapshot, policy, name, f"{name} passed every gate (auto)")


def _approving(snapshot: Snapshot, policy: Policy) -> Action:
    cycle, command = snapshot.cycle, wish(snapshot, "rollback")
    if cycle is None:
        return Cancel("waiting for an approval, but no cycle is open")
    if command is not None:
        return Cancel(f"{command.actor} asked for a rollback: {_why(command)}; the candidate goes first")
    rejected = wish(snapshot, "reject")
    if rejected is not None:
        return Reject(f"{rejected.actor} rejected it: {_why(rejected)}", "person", command=rejected.id)
    if not snapshot.verdicts_complete or snapshot.judged_under != policy.hash:
        return Evaluate("the policy changed since the verdicts: judging by the stricter of both")
    name = candidate_name(snapshot)
    refusal = _refusal(snapshot, "candidate")
    if refusal is not None:
        return refusal
    asked = cycle.asked_at or snapshot.phase_since
    left = asked + policy.approvals.expire_hours * HOUR - snapshot.now
    if left <= 0:
        return Reject(f"nobody approved {name} in {duration(policy.approvals.expire_hours * HOUR)}", "expired")
    if snapshot.paused_by:
        return _paused(snapshot, f"{name} waits for an approval")
    command = wish(snapshot, "approve", "promote")
    if command is not None and name:
        said = f"{command.actor} approved {name}, which passed every gate: {_why(command)}"
        return rollout.promote(snapshot, policy, name, said, command.id)
    return Wait(f"{name} passed every gate and waits for an approval, {duration(left)} left", "approval")


_RULES: dict[Phase, Callable[[Snapshot, Policy], Action]] = {
    Phase.GATHERING: _gathering,
    Phase.IDLE: _idle,
    Phase.TRAINING: _training,
    Phase.EVALUATING: _evaluating,
    Phase.APPROVING: _approving,
    Phase.PROMOTING: rollout.promoting,
    Phase.RAMPING: rollout.ramping,
    Phase.WATCHING: rollout.watching,
    Phase.ROLLING_BACK: rollout.rolling_back,
}
