"""References of a slot: `inputs` (frozen at promotion) and `outcomes` (when a version settles), and what they grow into.

Owns: when they are frozen, what they hold, and that a young one takes in what did not drift. Refuses to compare
(`feedback.drift`). Called by `daemon.act` at promotion and settling, by `daemon.looking`, and by `daemon.observe`.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon.tables import Baseline, DriftRow, Slot
from feedback import store, windows
from feedback.windows import Window
from policies.policy import Drift

DAY = 86400.0
GROWN = "+"  # of a baseline's kind: the same with what came later and did not drift


def newest(session: Session, slot: int, kind: str, version: str = "") -> Baseline | None:
    """The newest baseline of that kind (of one version, where one is named)."""
    query = select(Baseline).where(Baseline.slot == slot, Baseline.kind == kind)
    if version:
        query = query.where(Baseline.version == version)
    return session.scalar(query.order_by(Baseline.id.desc()).limit(1))


def freeze_inputs(session: Session, slot: Slot, version: str, rows: int, drift: Drift, now: float) -> Baseline:
    """Freeze what `version` is promoted on: the last `reference_days`, at least `rows`; the window ends at the head.

    It begins no earlier than the drift that was found last, where `rows` came in since: the version has learned it, and
    what was before it is no reference any more.
    """
    first, last = windows.latest(session, slot.deployment, "inputs", rows)
    days = store.head_at(session, now - drift.reference_days * DAY)
    first = min(first, max(days, _drifted_since(session, slot, drift.cheap)))
    window = windows.window(session, slot.deployment, "inputs", first, last, most=windows.ENOUGH)
    return _add(session, slot, "inputs", version, (first, store.head(session)), windows.aggregates(window), now)


def freeze_outcomes(session: Session, slot: Slot, version: str, now: float) -> Baseline:
    """Freeze the votes and ratings that `version` earned between its promotion and now."""
    inputs = newest(session, slot.id, "inputs", version)
    first, last = (inputs.last if inputs else 0), store.head(session)
    votes = store.votes(session, slot.deployment, version, after_seq=first)
    # Its own ratings alone, so that the block in which it was promoted is all its own too.
    start = windows.start_of_block(first)
    window = windows.window(session, slot.deployment, "outcomes", start, last, version=version, most=windows.ENOUGH)
    frozen = {"n": votes.n, "good": votes.good, "window": windows.aggregates(window)}
    return _add(session, slot, "outcomes", version, (first, last), frozen, now)


def reference(session: Session, slot: Slot, kind: str) -> Baseline | None:
    """The champion's reference of that kind, grown where it has; None while it has none of its own."""
    # What has grown is younger than what it grew from, and older than what was frozen at the next promotion.
    mine = (Baseline.slot == slot.id, Baseline.kind.in_((kind, kind + GROWN)), Baseline.version == slot.champion)
    return session.scalar(select(Baseline).where(*mine).order_by(Baseline.id.desc()).limit(1))


def window_of(baseline: Baseline) -> Window:
    """What a baseline froze. Raises: Corrupt where it can't be read."""
    aggregates: Mapping[str, Any] = baseline.aggregates
    return windows.thaw(aggregates.get("window", aggregates))


def grow(session: Session, slot: Slot, held: Baseline, upto: int, days: float, now: float) -> None:
    """Let a reference that reaches back less than `days` take in what came in up to `upto` and did not drift.

    A reference of one hour knows neither nights nor weekends; what was frozen stays as it is beside it.
    """
    if upto <= held.last or now - store.ingested(session, held.first + 1, now) >= days * DAY:
        return
    kind = held.kind.removesuffix(GROWN)
    more = windows.window(session, slot.deployment, kind, held.last, upto, version=slot.champion, most=windows.ENOUGH)
    if not more.n:
        return
    aggregates = windows.aggregates(windows.joined([window_of(held), more]))
    if held.kind == kind:
        _add(session, slot, kind + GROWN, slot.champion, (held.first, upto), aggregates, now)
    else:
        held.aggregates, held.last, held.at = aggregates, upto, now


def _drifted_since(session: Session, slot: Slot, detector: str) -> int:
    """The sequence number before the newest drift that was found, 0 where none was."""
    mine = (DriftRow.slot == slot.id, DriftRow.detector == detector, DriftRow.drifted)
    row = session.scalar(select(DriftRow).where(*mine).order_by(DriftRow.id.desc()).limit(1))
    since = [int(column.get("since", 0)) for column in row.report.get("columns", [])] if row else []
    return max(min((number for number in since if number), default=0) - 1, 0)


def _add(
    session: Session,
    slot: Slot,
    kind: str,
    version: str,
    span: tuple[int, int],
    aggregates: Mapping[str, Any],
    now: float,
) -> Baseline:
    row = Baseline(
        slot=slot.id,
        kind=kind,
        version=version,
        first=span[0],
        last=span[1],
        aggregates=dict(aggregates),
        at=now,
    )
    session.add(row)
    return row
