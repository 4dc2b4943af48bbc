"""One short function an Action: the effect, then what it answered. Effects are idempotent by (cycle, step).

Owns: which effect an action has, and what an error of it means for the slot. Refuses to decide anything: every refusal
and retry is an outcome, and `decide` says what follows. Called by `daemon.loop`.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon import baselines, costs, judging, learning, serving
from daemon.answer import Answer, Apply, nothing
from daemon.context import Context
from daemon.tables import Cycle, MeasurementRow, Slot, VersionRow
from feedback import db, quarantine
from feedback.tables import Record
from policies import actions
from policies.actions import Action
from policies.errors import Corrupt, Misconfigured, Refused, Transient
from policies.model import Outcome, Phase, Snapshot
from policies.triggers import after_cycle

HOLDS = "safety"
HALFWAY = frozenset({Phase.PROMOTING.value, Phase.RAMPING.value})


def carry_out(context: Context, slot: Slot, cycle: Cycle | None, action: Action, snapshot: Snapshot) -> Answer:
    """Do it, and say what came of it.

    Raises: Corrupt, which stops the service; everything else is an answer.
    """
    try:
        return _do(context, slot, cycle, action, snapshot)
    except Transient as error:
        away = isinstance(action, actions.Promote | actions.Rollback)
        outcome = Outcome.UNFINISHED if away else Outcome.RETRY
        return Answer(outcome, note=str(error), error=str(error), apply=_heading(action))
    except (Refused, Misconfigured) as error:
        note = f"{error} ({error.hint})" if error.hint else str(error)
        return Answer(Outcome.REFUSED, note=note, error=note, apply=_refused(context, slot, cycle, action, note))


def _do(context: Context, slot: Slot, cycle: Cycle | None, action: Action, snapshot: Snapshot) -> Answer:
    match action:
        case actions.Rollback():
            return serving.rollback(context, slot, action)
        case actions.Wait() | actions.Watch():
            raise Corrupt("a wait was stored as an open decision", hint="report this defect")
    if cycle is None:
        raise Corrupt(f"{type(action).__name__} without a cycle", hint="learnctl audit verify, then report it")
    match action:
        case actions.Train():
            return learning.train(context, slot, cycle, action)
        case actions.Evaluate():
            return evaluate(context, slot, cycle)
        case actions.Promote():
            return serving.promote(context, slot, cycle, action)
        case actions.Ramp():
            return serving.ramp(context, slot, action)
        case actions.AskApproval():
            return ask(context, cycle)
        case actions.Reject():
            return reject(context, cycle, action, snapshot)
        case actions.Settle():
            return settle(context, slot, cycle, action)
        case actions.Cancel() | actions.Fail():
            return stop(context, cycle, action)


def evaluate(context: Context, slot: Slot, cycle: Cycle) -> Answer:
    """Publish and start, start again, collect, or judge again: whichever the cycle's job says comes next."""
    if not cycle.evaluation:
        return judging.begin(context, slot, cycle)
    state = context.jobs.find(cycle.evaluation).state
    if _judged(context, cycle):
        return judging.rejudge(context, slot, cycle)
    if state == "done":
        return judging.collect(context, slot, cycle)
    return judging.restart(context, slot, cycle)


def _judged(context: Context, cycle: Cycle) -> bool:
    query = select(MeasurementRow.id).where(MeasurementRow.evaluation == cycle.evaluation).limit(1)
    return db.read(context.engine, lambda session: session.scalar(query)) is not None


def ask(context: Context, cycle: Cycle) -> Answer:
    """Put the candidate before a person."""

    def apply(_session: Session, _slot: Slot, kept: Cycle | None) -> None:
        assert kept is not None
        kept.asked = context.clock.now()

    return Answer(Outcome.ASKED, facts={"version": cycle.candidate}, apply=apply)


def reject(context: Context, cycle: Cycle, action: actions.Reject, snapshot: Snapshot) -> Answer:
    """End the cycle; what a refusal by safety was trained on is held back until a person has looked at it."""
    version = judging.subject(cycle)
    now = context.clock.now()
    window_end, _ = after_cycle(snapshot, context.policy, action.kind)

    def apply(session: Session, slot: Slot, kept: Cycle | None) -> None:
        assert kept is not None
        row = session.get(VersionRow, version)
        if row is not None and row.state == "candidate":
            row.state = "rejected"
        if HOLDS in action.refused_by and kept.step != learning.TEACHER:
            held = learnable(session, slot, kept)
            quarantine.hold(session, held, f"in the training data of {version}, which safety refused", now)
            slot.window_end = kept.window_last
        else:
            slot.window_end = window_end
        serving.end_cycle(slot, kept, "rejected" if action.kind == "person" else action.kind, action.reason, now)

    facts = {"version": version, "kind": action.kind, "refused_by": list(action.refused_by)}
    return Answer(Outcome.REJECTED, facts=facts, apply=apply)


def learnable(session: Session, slot: Slot, cycle: Cycle) -> list[int]:
    """Every record of the cycle's window that could teach: what its dataset left out would come back by replay."""
    query = select(Record.seq).where(
        Record.deployment == slot.deployment,
        Record.seq > cycle.window_first,
        Record.seq <= cycle.window_last,
        Record.fold == "train",
        Record.usable != "",
        Record.state == "live",
    )
    return list(session.scalars(query))


def settle(context: Context, slot: Slot, cycle: Cycle, action: actions.Settle) -> Answer:
    """End the watch; a proven version leaves an outcomes baseline, and is the anchor if it is the best that settled."""
    champion, now = slot.champion, context.clock.now()

    def apply(session: Session, kept: Slot, row: Cycle | None) -> None:
        if action.proven:
            baselines.freeze_outcomes(session, kept, champion, now)
            if _score(session, cycle.evaluation, champion) >= _score(session, cycle.evaluation, kept.anchor):
                kept.anchor = champion
        serving.end_cycle(kept, row, "settled" if action.proven else "unproven", action.reason, now)

    return Answer(Outcome.SETTLED if action.proven else Outcome.UNPROVEN, facts={"version": champion}, apply=apply)


def _score(session: Session, evaluation: str, version: str) -> float:
    """Mean score on the goldens in that evaluation; -1 where the version was not part of it."""
    values = list(
        session.scalars(
            select(MeasurementRow.value).where(
                MeasurementRow.evaluation == evaluation,
                MeasurementRow.version == version,
                MeasurementRow.probe == "goldens",
            )
        )
    )
    return sum(values) / len(values) if values else -1.0


def stop(context: Context, cycle: Cycle, action: actions.Cancel | actions.Fail) -> Answer:
    """Stop the running job, if any, and end the cycle."""
    spent = None
    if cycle.job:
        spent = costs.taken(context, cycle.job)
        context.jobs.cancel(cycle.job)
    failed = isinstance(action, actions.Fail)
    close = _closing(context, "failed" if failed else "cancelled", action.reason, spent)
    return Answer(Outcome.FAILED if failed else Outcome.CANCELLED, facts={"job": cycle.job}, apply=close)


def _closing(context: Context, outcome: str, reason: str, spent: costs.Taken | None) -> Apply:
    now = context.clock.now()

    def apply(session: Session, slot: Slot, cycle: Cycle | None) -> None:
        if cycle is not None and cycle.candidate:
            row = session.get(VersionRow, cycle.candidate)
            if row is not None and row.state == "candidate":
                row.state = "rejected"
        if cycle is not None:
            costs.write(session, context, cycle, judging.subject(cycle), spent)
        serving.end_cycle(slot, cycle, outcome, reason, now)

    return apply


def _refused(context: Context, slot: Slot, cycle: Cycle | None, action: Action, note: str) -> Apply:
    """What a refusal leaves behind: learning ends its cycle; a half-done change of traffic heads back."""
    if isinstance(action, actions.Rollback):
        return nothing
    if slot.phase in HALFWAY:
        return _towards(serving.before(slot))
    spent = costs.taken(context, cycle.job) if cycle is not None and cycle.job else None
    return _closing(context, "refused", note, spent)


def _heading(action: Action) -> Apply:
    return _towards(action.to) if isinstance(action, actions.Rollback) else nothing


def _towards(version: str) -> Apply:
    def apply(_session: Session, slot: Slot, _cycle: Cycle | None) -> None:
        slot.rolling_back_to = version

    return apply
