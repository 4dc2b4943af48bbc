"""Counts of the past for the metrics: cycles, verdicts, decisions, and what still waits to be dealt with.

Owns: the queries, each of which counts in the database. Refuses to name metrics (`daemon.metrics`) and to read a record.
Called by `daemon.api`.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from daemon.audit.log import SIZE
from daemon.tables import Cycle, Decision, Lease, Setting, Slot, VerdictRow
from feedback.db import Base
from feedback.tables import DeadLetter, Gap, Tombstone

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tallies:
    """Counts by their labels. `cycles`: (deployment, method, outcome) -> number, seconds from start to end, seconds of
    jobs. `running`: (deployment, method, step) of cycles with a job. `verdicts`: (deployment, gate, result).
    `decisions`: (deployment, action, outcome). `waiting`: dead letters to publish, gaps and erasures to settle.
    """

    cycles: dict[Labels, tuple[int, float, float]]
    running: dict[Labels, int]
    verdicts: dict[Labels, int]
    decisions: dict[Labels, int]
    waiting: dict[str, int]
    audit_entries: int
    lease_token: int


def look(session: Session) -> Tallies:
    """Count everything once."""
    counted = session.get(Setting, SIZE)
    return Tallies(
        cycles=_cycles(session),
        running=_running(session),
        verdicts=_verdicts(session),
        decisions=_decisions(session),
        waiting={
            "dead_letters": _count(session, DeadLetter, DeadLetter.published.is_(None)),
            "gaps": _count(session, Gap, Gap.audited.is_(False)),
            "erasures": _count(session, Tombstone, Tombstone.settled.is_(False)),
        },
        audit_entries=int(counted.value) if counted else 0,
        lease_token=session.scalar(select(func.max(Lease.token))) or 0,
    )


def _cycles(session: Session) -> dict[Labels, tuple[int, float, float]]:
    keys = (Slot.deployment, Cycle.method, Cycle.outcome)
    lasted, spent = func.sum(Cycle.ended - Cycle.started), func.sum(Cycle.spent_seconds)
    query = select(*keys, func.count(), lasted, spent).join(Slot, Slot.id == Cycle.slot)
    rows = session.execute(query.where(Cycle.ended.is_not(None)).group_by(*keys))
    return {
        (name, method, outcome): (number, float(took or 0.0), float(used or 0.0))
        for name, method, outcome, number, took, used in rows
    }


def _running(session: Session) -> dict[Labels, int]:
    keys = (Slot.deployment, Cycle.method, Cycle.step)
    query = select(*keys, func.count()).join(Slot, Slot.id == Cycle.slot)
    rows = session.execute(query.where(Cycle.ended.is_(None), Cycle.job != "").group_by(*keys))
    return {(name, method, step): number for name, method, step, number in rows}


def _verdicts(session: Session) -> dict[Labels, int]:
    keys = (Slot.deployment, VerdictRow.gate, VerdictRow.result)
    joined = select(*keys, func.count()).join(Cycle, Cycle.id == VerdictRow.cycle).join(Slot, Slot.id == Cycle.slot)
    return {(name, gate, result): number for name, gate, result, number in session.execute(joined.group_by(*keys))}


def _decisions(session: Session) -> dict[Labels, int]:
    keys = (Slot.deployment, Decision.action, Decision.outcome)
    joined = select(*keys, func.count()).join(Slot, Slot.id == Decision.slot)
    rows = session.execute(joined.group_by(*keys))
    return {(name, action, outcome or "open"): number for name, action, outcome, number in rows}


def _count(session: Session, table: type[Base], condition: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(condition)) or 0
