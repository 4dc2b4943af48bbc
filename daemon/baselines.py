"""References of a slot: `inputs` (frozen at promotion) and `outcomes` (when a version settles), and what they grow into.

Owns: when they are frozen, what they hold, and that a young one takes in what did not drift. Refuses to compare
(`feedback.drift`). Called by `daemon.act` at promotion and settling, by `daemon.looking`, and by `daemon.observe`.
"""

from collections.abc import Mapping
from dataclasses import replace
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
    what was before it is no reference any more; where only a slice drifted, its own part alone begins later.
    """
    first, last = windows.latest(session, slot.deployment, "inputs", rows)
    days = store.head_at(session, now - drift.reference_days * DAY)
    since = _drifted_since(session, slot, drift.cheap)
    first = min(first, max(days, since.get("", 0)))
    begins = {name: at for name, at in since.items() if name.partition("=")[0] in drift.slices}
    window = windows.window(session, slot.deployment, "inputs", first, last, most=windows.ENOUGH, begins=begins)
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


def grow(session: Session, slot: Slot, held: Baseline, current: Window, drift: Drift, now: float) -> None:
    """Let a reference that reaches back less than `reference_days` take in what came before `current` and did not drift.

    A reference of one hour knows neither nights nor weekends; what was frozen stays as it is beside it. Each slice grows
    by itself, up to its own window; one that is new begins with what comes after its first whole window.
    """
    kind, before = held.kind.removesuffix(GROWN), window_of(held)
    sides = {"": (replace(before, first=held.first, last=held.last), current)}
    sides |= {name: (before.slices[name], one) for name, one in current.slices.items() if name in before.slices}
    spans = {
        name: (old.last, new.first)
        for name, (old, new) in sides.items()
        if new.first > old.last and len(new.blocks) == drift.blocks
    }
    starts = {sides[name][0].first for name in spans}
    young = {first for first in starts if now - store.ingested(session, first + 1, now) < drift.reference_days * DAY}
    spans = {name: span for name, span in spans.items() if sides[name][0].first in young}
    fresh = {
        name: (one.first, one.first)
        for name, one in current.slices.items()
        if name not in before.slices and len(one.blocks) == drift.blocks
    }
    grown = _grown(session, slot, kind, before, spans | fresh)
    if grown is before:
        return
    last = spans[""][1] if "" in spans else held.last
    if held.kind == kind:
        _add(session, slot, kind + GROWN, slot.champion, (held.first, last), windows.aggregates(grown), now)
    else:
        held.aggregates, held.last, held.at = windows.aggregates(grown), last, now


def _grown(session: Session, slot: Slot, kind: str, before: Window, spans: Mapping[str, tuple[int, int]]) -> Window:
    """A reference with what came in over `spans`, of all ("") and of slices; the same one where that is nothing."""
    whole, version, most = before, slot.champion, windows.ENOUGH
    if "" in spans:
        more = windows.window(session, slot.deployment, kind, *spans[""], version=version, most=most, sliced=False)
        whole = windows.joined([before, more]) if more.n else before
    sliced = {name: span for name, span in spans.items() if name}
    if whole is before and not sliced:
        return before
    found = windows.between(session, slot.deployment, kind, sliced, version=version, most=most)
    joined = {name: windows.joined([before.slices[name], one]) for name, one in found.items() if name in before.slices}
    return replace(whole, slices={**before.slices, **found, **joined})


def _drifted_since(session: Session, slot: Slot, detector: str) -> dict[str, int]:
    """The sequence number before the newest drift that was found, of all ("") and of each slice that drifted alone."""
    mine = (DriftRow.slot == slot.id, DriftRow.detector == detector, DriftRow.drifted)
    row = session.scalar(select(DriftRow).where(*mine).order_by(DriftRow.id.desc()).limit(1))
    found: dict[str, int] = {}
    for column in row.report.get("columns", []) if row else []:
        since, name = int(column.get("since", 0)) - 1, column.get("slice", "")
        if since > 0:
            found[name] = min(since, found.get(name, since))
    return found


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
