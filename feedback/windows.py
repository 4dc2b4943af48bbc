"""Windows over ingest sequence: what came in between two records, as column sketches and a sample of rows.

Owns: summing sketches up, the rows at a window's edges, the draw of the sample, and the frozen form of a window. Refuses
to compare two windows (`feedback.drift`). Called by `daemon.looking`, `daemon.baselines` and `daemon.drifting`.

A window is (first, last] of sequence numbers, never of times that a sender gave. Full blocks of a thousand come from
their sketches, only the two blocks at the edges are read row by row: the cost follows the blocks, not the rows.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from feedback import sketch
from feedback.records import question
from feedback.tables import Record, Sketch
from policies.errors import Corrupt, Refused

Kind = str  # inputs or outcomes

CHUNK = 500
PAGE = 256  # blocks
OUTCOMES = ("rating",)


@dataclass(frozen=True, slots=True)
class ColumnSketch:
    """One column of a window: `n` values, `bins` as `feedback.sketch` names them, sums for numbers, ratings by sign."""

    n: int
    bins: Mapping[str, int]
    sum: float = 0.0
    squares: float = 0.0
    good: int = 0
    neutral: int = 0
    bad: int = 0

    @property
    def numeric(self) -> bool:
        """Whether most values are numbers (a sender may change its mind about a feature's type)."""
        return 2 * sum(count for name, count in self.bins.items() if not name.startswith("=")) > self.n


@dataclass(frozen=True, slots=True)
class Window:
    """What came in over (first, last]: `n` records of `records` (exposure or feedback), their columns, and a sample.

    `kind` is inputs or outcomes. Rows of `sample` are columns by name, at most as many as were asked for.
    """

    first: int
    last: int
    n: int
    columns: Mapping[str, ColumnSketch]
    sample: Sequence[Mapping[str, sketch.Value]] = ()
    kind: Kind = "inputs"
    records: str = "feedback"
    counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)


def window(
    session: Session, deployment: str, kind: Kind, first: int, last: int, *, sample: int = 10_000, seed: int = 0
) -> Window:
    """The window (first, last]. `inputs` are exposures, or feedback where the deployment sends none; `outcomes` ratings.

    `sample`: rows at most, by a seeded draw (0: none, and no row but those at the edges is read).
    Raises: Refused where `kind` is another word or the window runs backwards.
    """
    if kind not in ("inputs", "outcomes") or last < first:
        raise Refused(f"no window: {kind} of {first}-{last}", hint="inputs or outcomes, first <= last")
    records = source(session, deployment, kind)
    whole = _whole_blocks(first, last)
    counts: dict[str, dict[str, Any]] = {}
    if whole:
        query = select(Sketch.column, Sketch.counts).where(
            Sketch.deployment == deployment,
            Sketch.block >= whole.start,
            Sketch.block < whole.stop,
            Sketch.kind == records,
        )
        for name, block in session.execute(query.order_by(Sketch.block)):
            _sum_up(counts.setdefault(name, {"n": 0}), block)
    for low, high in _edges(first, last, whole):
        for row in _rows(session, deployment, records, low, high):
            for name, value in _columns(row).items():
                sketch.count(counts.setdefault(name, {"n": 0}), name, value)
    rows = _sample(session, deployment, records, (first, last), sample, seed) if sample else []
    return _made(kind, records, first, last, counts, rows)


def latest(session: Session, deployment: str, kind: Kind, n: int) -> tuple[int, int]:
    """The (first, last] that ends at the newest record of all and holds the newest `n` of that kind (all, if fewer).

    Empty, (last, last), where there is none.
    """
    records = source(session, deployment, kind)
    last = session.scalar(select(func.max(Record.seq))) or 0
    before, missing = last // sketch.BLOCK + 1, n
    while True:
        blocks = _block_sizes(session, deployment, records, before)
        for block, size in blocks:
            if size >= missing:
                return _nth_newest(session, deployment, records, block, missing), last
            missing -= size
            before = block
        if not blocks:
            return (0, last) if missing < n else (last, last)


def source(session: Session, deployment: str, kind: Kind) -> str:
    """Which records a kind of window is made of: exposure or feedback."""
    if kind == "outcomes":
        return "feedback"
    query = select(Sketch.block).where(Sketch.deployment == deployment, Sketch.kind == "exposure").limit(1)
    return "feedback" if session.scalar(query) is None else "exposure"


def aggregates(window: Window) -> dict[str, Any]:
    """A window as JSON values, without its sample: what a baseline freezes."""
    return {
        "schema": 1,
        "kind": window.kind,
        "records": window.records,
        "first": window.first,
        "last": window.last,
        "n": window.n,
        "columns": {name: dict(counts) for name, counts in window.counts.items()},
    }


def thaw(frozen: Mapping[str, Any]) -> Window:
    """The window that `aggregates` froze (no sample).

    Raises: Corrupt where it isn't one.
    """
    try:
        if frozen["schema"] != 1:
            raise Corrupt(
                f"a window was frozen under schema {frozen['schema']}", hint="install the learnd that wrote it"
            )
        first, last = int(frozen["first"]), int(frozen["last"])
        return _made(frozen["kind"], frozen["records"], first, last, frozen["columns"], [], n=int(frozen["n"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(
            f"not a frozen window: {error!r}", hint="learnctl audit verify; the baseline was edited"
        ) from error


def _made(
    kind: Kind,
    records: str,
    first: int,
    last: int,
    counts: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Mapping[str, sketch.Value]],
    *,
    n: int | None = None,
) -> Window:
    # Every feedback record has a prompt, and an exposure at least something: the fullest column counts the records.
    size = max((int(c["n"]) for c in counts.values()), default=0) if n is None else n
    kept = {name: c for name, c in sorted(counts.items()) if (name in OUTCOMES) == (kind == "outcomes")}
    columns = {
        name: ColumnSketch(
            n=int(c["n"]),
            bins=sketch.bins(c),
            sum=float(c.get("sum", 0.0)),
            squares=float(c.get("squares", 0.0)),
            good=int(c.get("good", 0)),
            neutral=int(c.get("neutral", 0)),
            bad=int(c.get("bad", 0)),
        )
        for name, c in kept.items()
    }
    sample = [{name: row[name] for name in row if name in columns} for row in rows]
    return Window(first, last, size, columns, sample, kind, records, kept)


def _whole_blocks(first: int, last: int) -> range:
    """The blocks of which no sequence number lies outside (first, last]."""
    start = -(-(first + 1) // sketch.BLOCK) if first > 0 else 0  # sequence numbers begin at 1
    return range(start, (last + 1) // sketch.BLOCK)


def _edges(first: int, last: int, whole: range) -> list[tuple[int, int]]:
    """What is left of (first, last] without its whole blocks, as (low, high]."""
    if not whole:
        return [(first, last)] if last > first else []
    spans = [(first, whole.start * sketch.BLOCK - 1), (whole.stop * sketch.BLOCK - 1, last)]
    return [(low, high) for low, high in spans if high > low]


def _sum_up(total: dict[str, Any], block: Mapping[str, Any]) -> None:
    for name, value in block.items():
        total[name] = total.get(name, 0) + value


def _rows(session: Session, deployment: str, records: str, low: int, high: int) -> Iterable[Record]:
    # An erased record has nothing left to show; the rest counts as it did at ingest, held back or not.
    query = select(Record).where(
        Record.deployment == deployment,
        Record.kind == records,
        Record.state != "erased",
        Record.seq > low,
        Record.seq <= high,
    )
    return session.scalars(query.order_by(Record.seq))


def _columns(row: Record) -> dict[str, sketch.Value]:
    messages = row.body.get("messages")
    prompt = question(messages) if messages else None
    return sketch.columns(row.features, prompt, row.body.get("response"), row.rating)


def _sample(
    session: Session, deployment: str, records: str, span: tuple[int, int], size: int, seed: int
) -> list[dict[str, sketch.Value]]:
    """Up to `size` rows, in order of sequence. A span far wider than the sample is probed, not read."""
    mine = (Record.deployment == deployment, Record.kind == records, Record.state != "erased")
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


def _block_sizes(session: Session, deployment: str, records: str, before: int) -> list[tuple[int, int]]:
    """The newest blocks below `before` with how many records of that kind they hold, newest first, a page."""
    size = func.max(Sketch.counts["n"].as_integer())
    query = (
        select(Sketch.block, size)
        .where(Sketch.deployment == deployment, Sketch.kind == records, Sketch.block < before)
        .group_by(Sketch.block)
        .order_by(Sketch.block.desc())
        .limit(PAGE)
    )
    return [(block, int(n)) for block, n in session.execute(query)]


def _nth_newest(session: Session, deployment: str, records: str, block: int, n: int) -> int:
    """The number before the `n`th newest record of that kind in the block."""
    query = (
        select(Record.seq)
        .where(Record.deployment == deployment, Record.kind == records)
        .where(Record.seq >= block * sketch.BLOCK, Record.seq < (block + 1) * sketch.BLOCK)
        .order_by(Record.seq.desc())
        .offset(n - 1)
        .limit(1)
    )
    found = session.scalar(query)
    return block * sketch.BLOCK - 1 if found is None else found - 1
