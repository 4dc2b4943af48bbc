"""observe -> decide -> record intent -> act -> record outcome: one pass over one slot.

Laws kept here: snapshot, decision and intent are one transaction; an open decision is carried out again before anything
new is decided; the outcome, the phase and the audit entry are one transaction. Owns: that order. Refuses to decide
(`policies`), to act (`daemon.act`), and to remember anything between two passes. Called by `daemon.service`.
"""

from dataclasses import dataclass

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon import act, clock, codec, command_outcomes, looking, returning
from daemon.answer import Answer
from daemon.audit import log as audit
from daemon.context import Context
from daemon.observe import observe
from daemon.tables import Cycle, Decision, Slot
from feedback import db
from policies import lifecycle
from policies.actions import Action, Promote, Reject, Rollback, Train, Wait, Watch
from policies.decide import decide
from policies.model import Outcome, Phase, Snapshot

logger = structlog.get_logger()
SYSTEM = "policy"
ALARMS = {
    Outcome.UNPROVEN: "unproven",
    Outcome.MISSERVED: "misserved",
    Outcome.FAILED: "failed",
    Outcome.ROLLED_BACK: "rolled_back",
    Outcome.REFUSED: "refused",
}
WAITS = {"stuck": "stuck", "gpu": "gpu_wait", "approval": "approval"}


@dataclass(frozen=True, slots=True)
class Tick:
    """What a pass did: `acted` when an outcome was stored, and the reason that a person sees.

    `alarm` is a stable word for what somebody must hear of, "" for everything else.
    """

    acted: bool
    waiting: bool
    reason: str
    cause: str
    alarm: str = ""


def tick(context: Context, slot_id: int, granted: tuple[bool, str] = (True, "")) -> Tick:
    """One pass over one slot.

    Raises: Transient where the database is away; Corrupt where stored state contradicts itself.
    """
    looking.look(context, slot_id)
    proved = returning.follow(context, slot_id)
    if proved is not None:
        said = f"rolled back to {proved.version}: {proved.reason}"
        return Tick(True, False, said, "rollback", "" if proved.serves else "rollback_unproven")
    if _open(context, slot_id) is None:
        decided = db.transact(context.engine, lambda session: _intend(session, context, slot_id, granted))
        if decided is not None:
            return decided
    return _carry_out(context, slot_id)


def _open(context: Context, slot_id: int) -> int | None:
    query = select(Decision.id).where(Decision.slot == slot_id, Decision.outcome.is_(None))
    return db.read(context.engine, lambda session: session.scalar(query))


def _intend(session: Session, context: Context, slot_id: int, granted: tuple[bool, str]) -> Tick | None:
    """Decide and write the intent; a tick where there is nothing to carry out."""
    slot = session.get_one(Slot, slot_id)
    command_outcomes.settle_at_once(
        session, slot, context.policy, context.clock.now(), lambda: observe(session, slot, context, granted)
    )
    snapshot = observe(session, slot, context, granted)
    action = decide(snapshot, context.policy)
    if isinstance(action, Wait | Watch):
        return _wait(session, context, slot, snapshot, action)
    if isinstance(action, Train) and not slot.cycle:
        slot.cycle = _new_cycle(session, context, slot, action).id
    _decision(session, context, slot, snapshot, action)
    _say(slot, action.reason, type(action).__name__.lower(), snapshot.now)
    return None


def _wait(session: Session, context: Context, slot: Slot, snapshot: Snapshot, action: Wait | Watch) -> Tick:
    """Nothing to do: the reason is kept, and logged and stored when its cause changes."""
    outcome = action.outcome if isinstance(action, Wait) else None
    changed = slot.cause != action.cause or outcome is not None
    if changed:
        row = _decision(session, context, slot, snapshot, action)
        row.outcome, row.ended = (outcome.value if outcome else "waiting"), snapshot.now
        logger.info("waiting", deployment=slot.deployment, cause=action.cause, reason=action.reason)
    if outcome is not None:
        _move(slot, outcome, snapshot.now)
    _say(slot, action.reason, action.cause, snapshot.now)
    return Tick(outcome is not None, outcome is None, action.reason, action.cause, WAITS.get(action.cause, ""))


def _new_cycle(session: Session, context: Context, slot: Slot, action: Train) -> Cycle:
    cycle = Cycle(
        slot=slot.id,
        trigger=action.trigger,
        reason=action.reason,
        method=action.method,
        step=action.step,
        window_first=action.window[0],
        window_last=action.window[1],
        seed=action.seed,
        policy_hash=context.policy.hash,
        champion=slot.champion,
        started=context.clock.now(),
    )
    session.add(cycle)
    clock.done(session, f"learn/{slot.deployment}/{slot.tenant}", context.clock.now())
    session.flush()
    return cycle


def _decision(session: Session, context: Context, slot: Slot, snapshot: Snapshot, action: Action) -> Decision:
    row = Decision(
        slot=slot.id,
        cycle=slot.cycle,
        action=type(action).__name__,
        body=codec.action_to_json(action),
        reason=action.reason,
        snapshot=codec.snapshot_to_json(snapshot),
        policy_hash=context.policy.hash,
        at=snapshot.now,
    )
    session.add(row)
    session.flush()
    return row


def _say(slot: Slot, reason: str, cause: str, now: float) -> None:
    if (slot.reason, slot.cause) != (reason, cause):
        slot.reason, slot.cause, slot.reason_at = reason, cause, now


def _carry_out(context: Context, slot_id: int) -> Tick:
    """Do what the open decision says and store what came of it."""

    def load(session: Session) -> tuple[Slot, Cycle | None, Decision]:
        slot = session.get_one(Slot, slot_id)
        decision = session.scalars(select(Decision).where(Decision.slot == slot_id, Decision.outcome.is_(None))).one()
        cycle = session.get(Cycle, slot.cycle) if slot.cycle else None
        session.expunge_all()
        return slot, cycle, decision

    slot, cycle, decision = db.read(context.engine, load)
    action = codec.action_from_json(decision.body)
    logger.info("acting", deployment=slot.deployment, action=decision.action, reason=decision.reason)
    answer = act.carry_out(context, slot, cycle, action, codec.snapshot_from_json(decision.snapshot))
    db.transact(context.engine, lambda session: _conclude(session, context, slot_id, decision.id, action, answer))
    logger.info(
        "acted", deployment=slot.deployment, action=decision.action, outcome=answer.outcome.value, note=answer.note
    )
    alarm = ALARMS.get(answer.outcome, "")
    if isinstance(action, Rollback) and answer.error:
        alarm = "rollback_failed"
    elif isinstance(action, Rollback) and answer.outcome is Outcome.ROLLED_BACK and answer.note:
        alarm = "rollback_unproven"
    return Tick(
        not answer.error, False, f"{action.reason}: {answer.note or answer.outcome}", decision.action.lower(), alarm
    )


def _conclude(
    session: Session, context: Context, slot_id: int, decision_id: int, action: Action, answer: Answer
) -> None:
    """Outcome, phase, rows and audit entry, in one transaction; a decision that was concluded before stays as it is."""
    decision = session.get_one(Decision, decision_id)
    if decision.outcome is not None:
        return
    slot = session.get_one(Slot, slot_id)
    cycle = session.get(Cycle, decision.cycle) if decision.cycle else None
    now = context.clock.now()
    answer.apply(session, slot, cycle)
    _count_attempt(slot, action, answer, now)
    _move(slot, answer.outcome, now)
    decision.outcome, decision.answer, decision.ended = answer.outcome.value, {"note": answer.note}, now
    actor = command_outcomes.conclude(session, action, answer, now) or SYSTEM
    if not answer.error or changes_production(action):
        audit.append(
            session,
            now=now,
            actor=actor,
            action=f"{decision.action.lower()}:{answer.outcome.value}",
            reason=action.reason,
            deployment=slot.deployment,
            version=str(answer.facts.get("version", "")),
            policy_hash=decision.policy_hash,
            facts={
                "decision": decision.id,
                "cycle": decision.cycle,
                "tenant": slot.tenant,
                **({"note": answer.note} if answer.note else {}),
                **answer.facts,
            },
        )


def changes_production(action: Action) -> bool:
    """Whether even a failed attempt of this action belongs into the audit log."""
    return isinstance(action, Promote | Rollback | Reject)


def _count_attempt(slot: Slot, action: Action, answer: Answer, now: float) -> None:
    name = type(action).__name__
    if not answer.error:
        slot.attempt = {}
        return
    count = int(slot.attempt.get("count", 0)) if slot.attempt.get("action") == name else 0
    slot.attempt = {"action": name, "count": count + 1, "last": now, "error": answer.error}


def _move(slot: Slot, outcome: Outcome, now: float) -> None:
    after = lifecycle.advance(Phase(slot.phase), outcome)
    if after.value != slot.phase:
        slot.phase, slot.phase_since = after.value, now
