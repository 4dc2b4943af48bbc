"""Windows over ingest sequence: what came in between two records, as column sketches and a sample of rows.

Owns: summing sketches up, the blocks that a current window is judged by, the draw of the sample, and the frozen form of a
window. Refuses to compare two windows (`feedback.drift`). Called by `daemon.looking`, `daemon.baselines` and
`daemon.drifting`.

A window is (first, last] of sequence numbers, never of times that a sender gave. It is made of whole blocks of sketches
(the newest is whole as far as it goes), so that no old row is read for it: what lies in a block that reaches beyond the
window's edge isn't counted, a hundred records at most. The cost follows the blocks, not the rows.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, func, select
from sqlalchemy.orm import Session

from feedback import counts, sketch
from feedback.counts import ColumnSketch, Days
from feedback.records import question
from feedback.tables import Record, Sketch
from policies.errors import Corrupt, Refused

Kind = str  # inputs or outcomes
Totals = dict[str, dict[str, dict[str, Any]]]  # by column and weekday

CHUNK = 500
PAGE = 256  # blocks
PARSED = 200  # rows
ENOUGH = 400  # blocks of a reference: small against its noise, and read in a fraction of a second
SCHEMA = 2
RATING = sketch.RATING


@dataclass(frozen=True, slots=True)
class Window:
    """What came in over (first, last]: `n` records of `records` (exposure or feedback), their columns, and a sample.

    `kind` is inputs or outcomes; outcomes have a column `rating`, and `rating[tenant=acme]` for each slice with enough of
    them. `counts` are the columns by weekday of ingest. `blocks` are the parts of a current window, oldest first. Rows of
    `sample` are columns by name, at most as many as were asked for.
    """

    first: int
    last: int
    n: int
    columns: Mapping[str, ColumnSketch]
    sample: Sequence[Mapping[str, sketch.Value]] = ()
    kind: Kind = "inputs"
    records: str = "feedback"
    counts: Mapping[str, Days] = field(default_factory=dict, repr=False)
    blocks: tuple["Window", ...] = field(default=(), repr=False)

    def days(self, column: str) -> Days:
        """The counts of a column by weekday of ingest."""
        return self.counts.get(column, {})


@dataclass(frozen=True, slots=True)
class _Stream:
    """Which records a window is made of, in sketches and as rows."""

    deployment: str
    kind: Kind
    records: str
    version: str

    @property
    def sketches(self) -> tuple[ColumnElement[bool], ...]:
        kind = sketch.OUTCOMES if self.kind == "outcomes" else self.records
        return (Sketch.deployment == self.deployment, Sketch.kind == kind)

    @property
    def counted(self) -> ColumnElement[bool]:
        """The one column that counts what a block holds."""
        return Sketch.column == (self.version if self.kind == "outcomes" else sketch.RECORDS)

    @property
    def rows(self) -> list[ColumnElement[bool]]:
        # An erased record has nothing left to show; the rest counts as it did at ingest, held back or not.
        mine = [Record.deployment == self.deployment, Record.kind == self.records, Record.state != "erased"]
        return [*mine, Record.model_version == self.version] if self.kind == "outcomes" else mine


def window(
    session: Session,
    deployment: str,
    kind: Kind,
    first: int,
    last: int,
    *,
    version: str = "",
    sample: int = 0,
    seed: int = 0,
    most: int = 0,
) -> Window:
    """The window (first, last]. `inputs` are exposures, or feedback where the deployment sends none; `outcomes` ratings.

    `version`: whose answers `outcomes` are of ("": nobody knows whose). `sample`: rows at most, by a seeded draw (0: none
    is read). `most`: sketch blocks at most (0: all), evenly taken out of a longer window, so that a month costs no more
    than a day.
    Raises: Refused where `kind` is another word or the window runs backwards.
    """
    if kind not in ("inputs", "outcomes") or last < first:
        raise Refused(f"no window: {kind} of {first}-{last}", hint="inputs or outcomes, first <= last")
    stream = _stream(session, deployment, kind, version)
    start, stop = -(-(first + 1) // sketch.BLOCK) if first > 0 else 0, (last + 1) // sketch.BLOCK
    if last >= _head(session):
        stop = last // sketch.BLOCK + 1
    total: Totals = {}
    for _, name, part in _parts(session, stream, start, stop, most):
        counts.add(total.setdefault(name, {}), part)
    rows = _sample(session, stream, (first, last), sample, seed) if sample else []
    return _made(kind, stream.records, first, last, total, rows)


def current(
    session: Session, deployment: str, kind: Kind, *, size: int, blocks: int, after: int, version: str = ""
) -> Window:
    """The newest `blocks` consecutive blocks (fewer, where there are fewer) of at least `size` records each, as a window.

    Only what came in after `after` counts. A block is closed by the first sketch block that fills it, so it may be up to
    a hundred records larger. The window is empty, (head, head], where not even one block is there.
    """
    stream, head = _stream(session, deployment, kind, version), _head(session)
    spans = _cut(_sizes(session, stream, after), size, blocks)
    if not spans:
        return _made(kind, stream.records, head, head, {}, [])
    totals: list[Totals] = [{} for _ in spans]
    place = 0
    for block, name, part in _parts(session, stream, spans[0][0], spans[-1][1] + 1):
        while block > spans[place][1]:
            place += 1
        counts.add(totals[place].setdefault(name, {}), part)
    parts = tuple(
        _made(kind, stream.records, _before(low), min(head, _before(high + 1)), total, [])
        for (low, high), total in zip(spans, totals, strict=True)
    )
    return joined(parts, parts)


def latest(session: Session, deployment: str, kind: Kind, n: int, *, version: str = "") -> tuple[int, int]:
    """The (first, last] that ends at the newest record of all and holds at least the newest `n` (all, if fewer).

    Empty, (last, last), where there is none.
    """
    head, held, first = _head(session), 0.0, None
    for block, size in _sizes(session, _stream(session, deployment, kind, version), 0):
        held, first = held + size, block
        if held >= n:
            break
    return (head if first is None else _before(first), head)


def start_of_block(seq: int) -> int:
    """The end of what came in before the block of `seq`."""
    return _before(seq // sketch.BLOCK)


def joined(parts: Sequence[Window], blocks: tuple[Window, ...] = ()) -> Window:
    """Windows of one kind, in order, as one; `blocks` are the parts that it is then judged by."""
    total: Totals = {}
    for part in parts:
        for name, days in part.counts.items():
            counts.add(total.setdefault(name, {}), days)
    whole = _made(parts[0].kind, parts[0].records, parts[0].first, parts[-1].last, total, [])
    return replace(whole, n=sum(part.n for part in parts), blocks=blocks)


def aggregates(window: Window) -> dict[str, Any]:
    """A window as JSON values, without its sample: what a baseline freezes."""
    outcomes = window.kind == "outcomes"  # their slices are made of the ratings
    return {
        "schema": SCHEMA,
        "kind": window.kind,
        "records": window.records,
        "first": window.first,
        "last": window.last,
        "n": window.n,
        "columns": {
            name: counts.capped(days) for name, days in window.counts.items() if name == RATING or not outcomes
        },
    }


def thaw(frozen: Mapping[str, Any]) -> Window:
    """The window that `aggregates` froze (no sample). What an older one froze knows no weekdays.

    Raises: Corrupt where it isn't one.
    """
    try:
        if frozen["schema"] not in (1, SCHEMA):
            raise Corrupt(
                f"a window was frozen under schema {frozen['schema']}", hint="install the learnd that wrote it"
            )
        first, last, columns = int(frozen["first"]), int(frozen["last"]), frozen["columns"]
        days = {name: {"": flat} for name, flat in columns.items()} if frozen["schema"] == 1 else columns
        made = _made(frozen["kind"], frozen["records"], first, last, days, [])
        return replace(made, n=int(frozen["n"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(
            f"not a frozen window: {error!r}", hint="learnctl audit verify; the baseline was edited"
        ) from error


def _made(
    kind: Kind,
    records: str,
    first: int,
    last: int,
    total: Mapping[str, Days],
    rows: Sequence[Mapping[str, sketch.Value]],
) -> Window:
    kept = {name: days for name, days in sorted(total.items()) if (name == RATING) == (kind == "outcomes")}
    shown = {name: days for name, days in kept.items() if name != sketch.RECORDS}
    if kind == "outcomes":
        shown |= {f"{RATING}[{name}]": days for name, days in counts.slices(kept.get(RATING, {})).items()}
    counted = kept.get(RATING if kind == "outcomes" else sketch.RECORDS, {})
    n = sum(int(day.get("n", 0)) for day in counted.values())
    columns = {name: counts.column(counts.summed(days.values())) for name, days in shown.items()}
    sample = [{name: row[name] for name in row if name in columns} for row in rows]
    return Window(first, last, n, columns, sample, kind, records, kept | shown)


def _head(session: Session) -> int:
    return session.scalar(select(func.max(Record.seq))) or 0


def _before(block: int) -> int:
    """The sequence number before a block's first; they begin at 1."""
    return max(block * sketch.BLOCK - 1, 0)


def _cut(sizes: Iterator[tuple[int, float]], size: int, blocks: int) -> list[tuple[int, int]]:
    """Runs of sketch blocks (low, high) with `size` records each, oldest first, cut from the newest backwards."""
    spans: list[tuple[int, int]] = []
    held, high = 0.0, None
    for block, n in sizes:
        if high is None:
            high = spans[-1][0] - 1 if spans else block
        held += n
        if held >= size:
            spans.append((block, high))
            held, high = 0.0, None
        if len(spans) == blocks:
            break
    return spans[::-1]


def _stream(session: Session, deployment: str, kind: Kind, version: str) -> _Stream:
    if kind == "outcomes":
        return _Stream(deployment, kind, sketch.FEEDBACK, version)
    query = select(Sketch.block).where(Sketch.deployment == deployment, Sketch.kind == "exposure").limit(1)
    return _Stream(deployment, kind, sketch.FEEDBACK if session.scalar(query) is None else "exposure", "")


def _parts(session: Session, stream: _Stream, start: int, stop: int, most: int = 0) -> Iterator[tuple[int, str, Days]]:
    """Block, column and counts of every sketch over blocks [start, stop), in order, of `most` blocks (0: of all)."""
    inside = (*stream.sketches, Sketch.block >= start, Sketch.block < stop)
    query = select(Sketch.block, Sketch.column, cast(Sketch.counts, Text)).where(*inside)
    if stream.kind == "outcomes":
        query = query.where(Sketch.column == stream.version)
    if most:
        there = session.scalars(select(Sketch.block).where(*inside, stream.counted).order_by(Sketch.block.desc())).all()
        if len(there) > most:
            query = query.where(Sketch.block.in_(there[:: -(-len(there) // most)]))
    # A wide window is tens of thousands of small rows: past the ORM, and parsed many at once, so that they share keys.
    for page in session.connection().execute(query.order_by(Sketch.block)).partitions(PARSED):
        parsed = json.loads(f"[{','.join(text for _, _, text in page)}]")
        for (block, name, _), days in zip(page, parsed, strict=True):
            yield block, RATING if stream.kind == "outcomes" else name, days


def _sizes(session: Session, stream: _Stream, after: int) -> Iterator[tuple[int, float]]:
    """The blocks that begin after `after` with how many values of that kind they hold, newest first."""
    lowest = -(-(after + 1) // sketch.BLOCK) if after > 0 else 0
    query = select(Sketch.block, Sketch.counts).where(*stream.sketches, stream.counted, Sketch.block >= lowest)
    query, before = query.order_by(Sketch.block.desc()).limit(PAGE), None
    while True:
        page = session.execute(query if before is None else query.where(Sketch.block < before)).all()
        for block, days in page:
            yield block, sum(counts.judged(one) for one in days.values())
        if len(page) < PAGE:
            return
        before = page[-1][0]


def _columns(row: Record) -> dict[str, sketch.Value]:
    messages = row.body.get("messages")
    prompt = question(messages) if messages else None
    return sketch.columns(row.features, prompt, row.body.get("response"), row.rating)


def _sample(
    session: Session, stream: _Stream, span: tuple[int, int], size: int, seed: int
) -> list[dict[str, sketch.Value]]:
    """Up to `size` rows, in order of sequence. A span far wider than the sample is probed, not read."""
    mine = stream.rows
    draw = random.Random(seed)
    numbers = range(span[0] + 1, span[1] + 1)
    if len(numbers) <= 8 * size:
        found = session.scalars(select(Record.seq).where(*mine, Record.seq > span[0], Record.seq <= span[1]))
        seqs = sorted(found)
        chosen = seqs if len(seqs) <= size else draw.sample(seqs, size)
    else:
        probes, chosen = draw.sample(numbers, 8 * size), []
        for start in range(0, len(probes), CHUNK):
            hit = set(session.scalars(select(Record.seq).where(*mine, Record.seq.in_(probes[start : start + CHUNK]))))
            chosen += [seq for seq in probes[start : start + CHUNK] if seq in hit]
            if len(chosen) >= size:
                break
    chosen = sorted(chosen[:size])
    rows: list[dict[str, sketch.Value]] = []
    for start in range(0, len(chosen), CHUNK):
        query = select(Record).where(Record.seq.in_(chosen[start : start + CHUNK])).order_by(Record.seq)
        rows += [_columns(row) for row in session.scalars(query)]
    return rows
