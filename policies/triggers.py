"""When to learn: what asks for an update, what holds it back, and "why not now" in one sentence.

The window of an update is (past.window_end, head]. A promotion moves `window_end` to the window's end; a refusal leaves
it, so the same window (and what came since) may buy `tries` candidates, and the last of them moves it too.

Owns: volume, drift, schedule, new teacher; cooldown, tries, budget, back-off. Refuses to know which method follows.
Called by `policies.decide` and `policies.commands`; `after_cycle` by `daemon.act` when a cycle ends;
`false_alarm_chance` by `daemon.looking`.
"""

from dataclasses import dataclass

from policies import gates
from policies.model import DriftReport, Snapshot
from policies.policy import Drift, Policy
from policies.words import count, duration

HOUR = 3600.0
LONGEST_BACKOFF_HOURS = 168.0
MONTH = 30 * 24 * HOUR
MOST_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Trigger:
    """What asks for an update: `name` is command, drift, teacher, volume or schedule; `command` its row, or 0."""

    name: str
    reason: str
    command: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """What keeps an update back. `lasting`: waiting alone changes nothing, so a person's wish is answered with it."""

    cause: str
    reason: str
    lasting: bool = False


def fired(snapshot: Snapshot, policy: Policy) -> Trigger | None:
    """The first that asks: a person, confirmed drift, a newer teacher, enough records, the schedule."""
    for command in snapshot.commands:
        if command.verb == "train":
            return Trigger("command", f"{command.actor} asked: {command.reason or 'no reason given'}", command.id)
    report = confirmed(snapshot, policy)
    if policy.triggers.drift and report is not None:
        return Trigger("drift", f"drift of {report.kind or 'the data'}: {report.reason}")
    teacher = newer_teacher(snapshot, policy) if policy.triggers.teacher else ""
    if teacher:
        return Trigger("teacher", teacher)
    usable = snapshot.counts.total
    if 0 < policy.triggers.volume <= usable:
        return Trigger("volume", f"{count(usable)} usable records, {count(policy.triggers.volume)} ask for an update")
    if snapshot.schedule_due:
        return Trigger("schedule", f"the schedule {policy.triggers.schedule} is due".replace("  ", " "))
    return None


def false_alarm_chance(drift: Drift, seconds: float) -> float:
    """The chance of a false alarm that a look may spend, `seconds` after the last one: its share of the month's.

    So the shares of all looks of a month add up to what the policy accepts, however many there are, and the expected
    false alarms with them: a sum needs no independence of looks that overlap. No look spends more than 5 percent.
    """
    return min(MOST_CHANCE, drift.false_alarms * seconds / MONTH)


def confirmed(snapshot: Snapshot, policy: Policy) -> DriftReport | None:
    """The drift that alarmed and isn't answered yet, where the policy names an evidence detector its report.

    The cheap detector's alarm is needed in any case: it alone holds the policy's rate of false alarms. Answered: its window
    ends before the last candidate's, or it was compared with a champion that is gone.
    """
    alarm, report = _open(snapshot, snapshot.drift), _open(snapshot, snapshot.evidence_drift)
    return (report if alarm else None) if policy.drift.evidence else alarm


def _open(snapshot: Snapshot, report: DriftReport | None) -> DriftReport | None:
    if report is None or not (report.judged and report.drifted):
        return None
    past = snapshot.past
    return None if report.current[1] <= past.window_end or report.at < past.last_promoted else report


def newer_teacher(snapshot: Snapshot, policy: Policy) -> str:
    """Why the policy's teacher has more to tell than the one that the champion learned from, "" when it hasn't."""
    teacher = snapshot.teacher
    if "distill" not in policy.method.allowed or not teacher.configured:
        return ""
    if teacher.configured != teacher.used:
        return f"the teacher {teacher.configured} is not the one that the champion learned from"
    if teacher.configured == "self" and teacher.age > policy.method.teacher_max_age_days * 24 * HOUR:
        return f"the teacher is {duration(teacher.age)} old"
    return ""


def held(snapshot: Snapshot, policy: Policy, trigger: Trigger) -> Hold | None:
    """The first that holds `trigger` back; cooldown and back-off don't hold a person's command."""
    rule, past, counts = policy.triggers, snapshot.past, snapshot.counts
    if past.tries >= rule.tries:
        spent = f"{count(past.tries, 'candidate')} came of this window, {rule.tries} are allowed: new data is needed"
        return Hold("tries", spent, lasting=True)
    if snapshot.head <= past.window_end or counts.total < max(1, rule.minimum):
        few = f"{count(counts.total)} usable records, at least {count(max(1, rule.minimum))} are needed to learn from"
        return Hold("records", few, lasting=True)
    if asks_proof(policy) and counts.judge_references < rule.judge_minimum:
        few = f"{count(counts.judge_references)} judge records with a reference, {count(rule.judge_minimum)} are needed"
        return Hold("judge", f"{few} to prove a gain", lasting=True)
    budget = rule.gpu_hours_per_week * HOUR
    if past.spent_seconds >= budget:
        spent = f"{duration(past.spent_seconds)} of {duration(budget)} of training are spent this week"
        return Hold("budget", spent, lasting=True)
    return None if trigger.name == "command" else _pause_after(snapshot, policy)


def _pause_after(snapshot: Snapshot, policy: Policy) -> Hold | None:
    past, rule = snapshot.past, policy.triggers
    if past.last_ended <= 0:
        return None
    if past.failures > 0:
        doubled = rule.failure_backoff_hours * 2.0 ** min(past.failures - 1, 16)
        left = past.last_ended + min(doubled, LONGEST_BACKOFF_HOURS) * HOUR - snapshot.now
        if left > 0:
            failed = f"{count(past.failures, 'failure')} in a row"
            return Hold("backoff", f"{failed}: {duration(left)} until the next try")
        return None
    left = past.last_ended + rule.cooldown_hours * HOUR - snapshot.now
    return Hold("cooldown", f"cooldown: {duration(left)} left") if left > 0 else None


def asks_proof(policy: Policy) -> bool:
    """Whether the improvement gate is on, so that judge records with a reference are needed."""
    return gates.enabled(policy.gates, "improvement")


def why_not(snapshot: Snapshot, policy: Policy) -> str:
    """The nearest trigger with its numbers, what drift says, and what would still hold an update back."""
    usable, rule = snapshot.counts.total, policy.triggers
    goal = f" of {count(rule.volume)}" if rule.volume > 0 else ""
    parts = [f"{count(usable)}{goal} usable records", _drift_words(snapshot, policy)]
    hold = held(snapshot, policy, Trigger("volume", ""))
    if hold is not None and hold.cause not in {"records", "judge"}:
        parts.append(hold.reason)
    elif hold is not None and hold.cause == "judge":
        parts.append(hold.reason.replace(" to prove a gain", ""))
    return "; ".join(parts)


def _drift_words(snapshot: Snapshot, policy: Policy) -> str:
    cheap, evidence = snapshot.drift, snapshot.evidence_drift
    if not policy.triggers.drift:
        return "drift asks for nothing here"
    if cheap is None and evidence is None:
        return "drift not looked at yet"
    if cheap is not None and not cheap.judged:
        return f"drift not judged: {cheap.reason}" if cheap.reason else "drift not judged yet"
    newest = snapshot.past.window_end
    if cheap is not None and cheap.drifted and policy.drift.evidence and cheap.current[1] > newest:
        return f"drift suspected by {cheap.detector}, not confirmed by {policy.drift.evidence}"
    if cheap is not None and _open(snapshot, evidence) and not cheap.drifted:
        return f"drift seen by {policy.drift.evidence}, not by {cheap.detector}, which holds the rate of false alarms"
    drifted = [r for r in (cheap, evidence) if r is not None and r.judged and r.drifted]
    return "drift answered already" if drifted else "no drift"


def after_cycle(snapshot: Snapshot, policy: Policy, kind: str) -> tuple[int, int]:
    """(window_end, tries) of a slot once its cycle has ended.

    `kind`: promoted, or a rejection's. What was promoted, shown (`shadow`) or answered by a person uses its window up.
    A refused or inconclusive candidate counts as a try; the last try uses the window up, so that only new data asks
    again. Anything else (failed, cancelled) leaves both as they are.
    """
    past, cycle = snapshot.past, snapshot.cycle
    if cycle is None:
        return past.window_end, past.tries
    end = max(past.window_end, cycle.window[1])
    if kind in {"promoted", "shadow", "person", "expired"}:
        return end, 0
    if kind in {"refused", "inconclusive"}:
        spent = past.tries + 1 >= policy.triggers.tries
        return (end, 0) if spent else (past.window_end, past.tries + 1)
    return past.window_end, past.tries
