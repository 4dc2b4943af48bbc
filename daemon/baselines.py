"""Frozen references of a slot: `inputs` (at promotion) and `outcomes` (when a version settles).

Owns: when they are frozen and what they hold. Refuses to compare (`feedback.drift`). Called by `daemon.act` at promotion
and settling, by `daemon.looking` for an adopted version, and by `daemon.observe`.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon.tables import Baseline, Slot
from feedback import store, windows


def newest(session: Session, slot: int, kind: str, version: str = "") -> Baseline | None:
    """The newest baseline of that kind (of one version, where one is named)."""
    query = select(Baseline).where(Baseline.slot == slot, Baseline.kind == kind)
    if version:
        query = query.where(Baseline.version == version)
    return session.scalar(query.order_by(Baseline.id.desc()).limit(1))


def freeze_inputs(session: Session, slot: Slot, version: str, rows: int, now: float) -> Baseline:
    """Freeze the newest `rows` of inputs as what `version` was promoted on; the window ends at the head."""
    first, last = windows.latest(session, slot.deployment, "inputs", rows)
    window = windows.window(session, slot.deployment, "inputs", first, last, sample=0)
    head = store.head(session)
    row = Baseline(
        slot=slot.id,
        kind="inputs",
        version=version,
        first=first,
        last=head,
        aggregates=windows.aggregates(window),
        at=now,
    )
    session.add(row)
    return row


def freeze_outcomes(session: Session, slot: Slot, version: str, now: float) -> Baseline:
    """Freeze the votes and ratings that `version` earned between its promotion and now."""
    inputs = newest(session, slot.id, "inputs", version)
    first, last = (inputs.last if inputs else 0), store.head(session)
    votes = store.votes(session, slot.deployment, version, after_seq=first)
    window = windows.window(session, slot.deployment, "outcomes", first, last, sample=0)
    row = Baseline(
        slot=slot.id,
        kind="outcomes",
        version=version,
        first=first,
        last=last,
        aggregates={"n": votes.n, "good": votes.good, "window": windows.aggregates(window)},
        at=now,
    )
    session.add(row)
    return row
