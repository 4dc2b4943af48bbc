"""Windows over ingest sequence: what came in between two records, as column sketches and a sample of rows.

Owns: summing sketches up, the blocks that a current window and each of its slices is judged by, and the frozen form of a
window. Refuses to compare two windows (`feedback.drift`) and to draw rows (`feedback.samples`). Called by
`daemon.looking`, `daemon.baselines` and `daemon.drifting`.

A window is (first, last] of sequence numbers, never of times that a sender gave. It is made of whole blocks of sketches
(the newest is whole as far as it goes), so that no old row is read for it: what lies in a block that reaches beyond the
window's edge isn't counted, a hundred records at most. The cost follows the blocks, not the rows.

A slice is a window of its own: where it is rare, its blocks reach further back than those of all records, `REACH` windows
at most, so that a tenant of a hundredth of the records is judged too, only later.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from feedback import asked, counts, samples, sketch, slices, streams
from feedback.asked import Asked
from feedback.counts import ColumnSketch, Days
from feedback.samples import Question, Vector
from feedback.slices import Columns, Part
from feedback.streams import Stream
from policies.errors import Corrupt, Refused

Kind = str  # inputs or outcomes
Span = tuple[int, int]

READ = 40  # blocks at once, for slices
SEARCH = 4  # rows that are looked through for one of a slice
REACH = 10  # current windows that a slice's own may reach back
ENOUGH = 400  # blocks of a reference: small against its noise, and read in a fraction of a second
SCHEMA = 2
RATING = sketch.RATING


@dataclass(frozen=True, slots=True)
class Window:
    """What came in over (first, last]: `n` records of `records` (exposure or feedback), their columns, and a sample.

    `kind` is inputs or outcomes; outcomes have one column, `rating`. `counts` are the columns by weekday of ingest.
    `blocks` are the parts of a current window, oldest first. Rows of `sample` are columns by name, at most as many as
    were asked for. `slices` are windows too, by their names ("tenant=acme"); `slice` is the name of such a one.
    `vectors` are questions as an encoder reads them, where one was asked. `asked` sketches which questions inputs had, None
    where it is unknown: of a slice, and where a block was ingested before these were kept.
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
    slice: str = ""
    slices: Mapping[str, "Window"] = field(default_factory=dict, repr=False)
    vectors: Sequence[Vector] = field(default=(), repr=False)
    asked: Asked | None = field(default=None, repr=False)

    def days(self, column: str) -> Days:
        """The counts of a column by weekday of ingest."""
        return self.counts.get(column, {})


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
    sliced: bool = True,
    slice: str = "",
    begins: Mapping[str, int] = MappingProxyType({}),
) -> Window:
    """The window (first, last]. `inputs` are exposures, or feedback where the deployment sends none; `outcomes` ratings.

    `version`: whose answers `outcomes` are of ("": nobody knows whose). `sample`: rows at most, by a seeded draw (0: none
    is read). `most`: sketch blocks at most (0: all), evenly taken out of a longer window, so that a month costs no more
    than a day. `sliced`: whether its slices are wanted. `slice`: only this one is wanted, as a window. `begins`: slices
    that begin later than the window.
    Raises: Refused where `kind` is another word or the window runs backwards.
    """
    if kind not in ("inputs", "outcomes") or last < first:
        raise Refused(f"no window: {kind} of {first}-{last}", hint="inputs or outcomes, first <= last")
    stream = replace(streams.stream(session, deployment, kind, version), slice=slice)
    start, stop = -(-(first + 1) // sketch.BLOCK) if first > 0 else 0, (last + 1) // sketch.BLOCK
    if last >= streams.head(session):
        stop = last // sketch.BLOCK + 1
    inside = streams.inside(session, stream, start, stop, most)
    total: Columns = {}
    for _, name, part in streams.parts(session, stream, inside):
        counts.add(total.setdefault(name, {}), part)
    spans = {name: (max(begin, first), last) for name, begin in {**begins, **({slice: first} if slice else {})}.items()}
    parts = streams.sliced(session, stream, inside) if sliced else ()
    found = _made(kind, stream.records, first, last, total)
    found = replace(found, slices=_slices(kind, stream.records, (first, last), spans, total, parts))
    found = _with_questions(session, stream, inside, found)
    if slice:
        found = found.slices[slice]
    return replace(found, sample=_sample(session, stream, found, sample, seed)) if sample else found


def current(
    session: Session,
    deployment: str,
    kind: Kind,
    *,
    size: int,
    blocks: int,
    after: int,
    version: str = "",
    slice_size: int = 0,
    slice_after: Mapping[str, int] = MappingProxyType({}),
) -> Window:
    """The newest `blocks` consecutive blocks (fewer, where there are fewer) of at least `size` records each, as a window.

    Only what came in after `after` counts. A block is closed by the first sketch block that fills it, so it may be up to
    a hundred records larger. The window is empty, (head, head], where not even one block is there. `slice_size`: records
    of its own that a slice's block holds at least (0: no slice is read); its blocks are no shorter than the others, and
    hold what came in after `slice_after` has for it.
    """
    stream, head = streams.stream(session, deployment, kind, version), streams.head(session)
    spans = _cut(((block, (n,)) for block, n in streams.sizes(session, stream, after)), (size,), blocks)
    if not spans:
        return _made(kind, stream.records, head, head, {})
    totals: list[Columns] = [{} for _ in spans]
    place = 0
    inside = streams.between(spans[0][0], spans[-1][1] + 1)
    for block, name, part in streams.parts(session, stream, inside):
        while block > spans[place][1]:
            place += 1
        counts.add(totals[place].setdefault(name, {}), part)
    parts = tuple(
        _made(kind, stream.records, streams.before(low), min(head, streams.before(high + 1)), total)
        for (low, high), total in zip(spans, totals, strict=True)
    )
    whole = _with_questions(session, stream, inside, joined(parts, parts))
    if not slice_size:
        return whole
    reach = streams.reach(session, stream, REACH * size * blocks)
    found = _by_block(session, stream, reach, slice_after, slice_size * blocks)
    made = {name: _cut_slice(stream, head, name, by, reach, (size, slice_size), blocks) for name, by in found.items()}
    return replace(whole, slices={name: one for name, one in made.items() if one is not None})


def between(
    session: Session, deployment: str, kind: Kind, spans: Mapping[str, Span], *, version: str = "", most: int = 0
) -> dict[str, Window]:
    """Slices by their names, each over a (first, last] of its own that begins and ends with a sketch block."""
    wide = {name: span for name, span in spans.items() if span[0] < span[1]}
    stream = streams.stream(session, deployment, kind, version)
    total: dict[str, Columns] = {name: {} for name in spans}
    first, last = min((span[0] for span in wide.values()), default=0), max((s[1] for s in wide.values()), default=0)
    inside = streams.inside(
        session, stream, -(-(first + 1) // sketch.BLOCK) if first else 0, (last + 1) // sketch.BLOCK, most
    )
    for block, name, column, days in streams.sliced(session, stream, inside) if wide else ():
        if name in wide and wide[name][0] <= streams.before(block) < wide[name][1]:
            counts.add(total[name].setdefault(column, {}), days)
    return {name: _made(kind, stream.records, *spans[name], columns, name) for name, columns in total.items()}


def questions(session: Session, deployment: str, first: int, last: int, size: int, seed: int) -> list[Question]:
    """What up to `size` records of the inputs of (first, last] asked, by a seeded draw."""
    stream = streams.stream(session, deployment, "inputs", "")
    return samples.questions(session, stream.rows, (first, last), size, seed)


def latest(session: Session, deployment: str, kind: Kind, n: int, *, version: str = "") -> tuple[int, int]:
    """The (first, last] that ends at the newest record of all and holds at least the newest `n` (all, if fewer).

    Empty, (last, last), where there is none.
    """
    head, held, first = streams.head(session), 0.0, None
    for block, size in streams.sizes(session, streams.stream(session, deployment, kind, version), 0):
        held, first = held + size, block
        if held >= n:
            break
    return (head if first is None else streams.before(first), head)


def start_of_block(seq: int) -> int:
    """The end of what came in before the block of `seq`."""
    return streams.before(seq // sketch.BLOCK)


def joined(parts: Sequence[Window], blocks: tuple[Window, ...] = ()) -> Window:
    """Windows of one kind and slice, in order, as one; `blocks` are the parts that it is then judged by."""
    total: Columns = {}
    for part in parts:
        for name, days in part.counts.items():
            counts.add(total.setdefault(name, {}), days)
    whole = _made(parts[0].kind, parts[0].records, parts[0].first, parts[-1].last, total, parts[0].slice)
    known = asked.merged(part.asked for part in parts)
    return replace(whole, n=sum(part.n for part in parts), blocks=blocks, asked=known)


def aggregates(window: Window) -> dict[str, Any]:
    """A window as JSON values, without its sample: what a baseline freezes."""
    return {
        "schema": SCHEMA,
        "kind": window.kind,
        "records": window.records,
        **_frozen(window),
        "asked": asked.to_json(window.asked),
        "slices": {name: _frozen(one) for name, one in window.slices.items()},
    }


def thaw(frozen: Mapping[str, Any]) -> Window:
    """The window that `aggregates` froze (no sample). What an older one froze knows no weekdays, or not what was asked.

    Raises: Corrupt where it isn't one.
    """
    try:
        if frozen["schema"] not in (1, SCHEMA):
            raise Corrupt(
                f"a window was frozen under schema {frozen['schema']}", hint="install the learnd that wrote it"
            )
        kind, records, columns = frozen["kind"], frozen["records"], frozen["columns"]
        days = {name: {"": flat} for name, flat in columns.items()} if frozen["schema"] == 1 else columns
        whole = _thawed(kind, records, {**frozen, "columns": days})
        whole = replace(whole, asked=asked.from_json(frozen.get("asked")))
        if "slices" not in frozen:  # an older one froze the ratings of slices with those of all
            parts = slices.rated(0, days.get(RATING, {}))
            return replace(whole, slices=_slices(kind, records, (whole.first, whole.last), {}, days, parts))
        found = {name: _thawed(kind, records, one, name) for name, one in frozen["slices"].items()}
        return replace(whole, slices=found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(
            f"not a frozen window: {error!r}", hint="learnctl audit verify; the baseline was edited"
        ) from error


def _frozen(window: Window) -> dict[str, Any]:
    columns = {name: counts.capped(days) for name, days in window.counts.items()}
    return {"first": window.first, "last": window.last, "n": window.n, "columns": columns}


def _thawed(kind: Kind, records: str, frozen: Mapping[str, Any], slice: str = "") -> Window:
    made = _made(kind, records, int(frozen["first"]), int(frozen["last"]), frozen["columns"], slice)
    return replace(made, n=int(frozen["n"]))


def _made(kind: Kind, records: str, first: int, last: int, total: Mapping[str, Days], slice: str = "") -> Window:
    kept = {name: days for name, days in sorted(total.items()) if (name == RATING) == (kind == "outcomes")}
    if kind == "outcomes" and RATING in kept:
        kept[RATING] = slices.without(kept[RATING])
    counted = kept.get(RATING if kind == "outcomes" else sketch.RECORDS, {})
    n = sum(int(day.get("n", 0)) for day in counted.values())
    shown = {name: days for name, days in kept.items() if name != sketch.RECORDS}
    columns = {name: counts.column(counts.summed(days.values())) for name, days in shown.items()}
    return Window(first, last, n, columns, (), kind, records, kept, slice=slice)


def _with_questions(session: Session, stream: Stream, inside: ColumnElement[bool], window: Window) -> Window:
    """The window with the sketch of its questions, where that is of every record that was counted."""
    known = streams.questions(session, stream, inside)
    return replace(window, asked=known if known is not None and known.n == window.n else None)


def _slices(
    kind: Kind,
    records: str,
    span: Span,
    spans: Mapping[str, Span],
    whole: Mapping[str, Days],
    parts: Iterable[Part],
) -> dict[str, Window]:
    """The slices of a window that are worth looking at; those of `spans`, which begin later, are there in any case."""
    total: dict[str, Columns] = {name: {} for name in spans}
    for block, name, column, days in parts:
        if name not in spans or streams.before(block) >= spans[name][0]:
            counts.add(total.setdefault(name, {}).setdefault(column, {}), days)
    sizes = {name: slices.size(columns) for name, columns in total.items()}
    kept = sorted({*slices.worth(sizes, slices.size(whole)), *spans})
    return {name: _made(kind, records, *spans.get(name, span), total[name], name) for name in kept}


def _by_block(
    session: Session, stream: Stream, reach: Mapping[int, float], after: Mapping[str, int], enough: float
) -> dict[str, dict[int, Columns]]:
    """What the slices that are worth looking at hold, block by block, within `reach` and behind their references.

    It is read from the newest backwards until no slice is left that `enough` records may be found of.
    """
    found: dict[str, dict[int, Columns]] = {}
    newest, whole = sorted(reach, reverse=True), sum(reach.values())
    read, sizes = 0.0, dict[str, float]()
    for start in range(0, len(newest), READ):
        some = newest[start : start + READ]
        for block, name, column, days in streams.sliced(session, stream, streams.between(some[-1], some[0] + 1)):
            if streams.before(block) >= after.get(name, 0):
                found.setdefault(name, {}).setdefault(block, {})[column] = dict(days)
        read += sum(reach[block] for block in some)
        sizes = {name: sum(map(slices.size, by.values())) for name, by in found.items()}
        if not any(n < enough <= n * whole / read for n in sizes.values()):
            break
    return {name: found[name] for name in sorted(slices.worth(sizes, read))}


def _cut_slice(
    stream: Stream,
    head: int,
    name: str,
    held: Mapping[int, Columns],
    reach: Mapping[int, float],
    least: tuple[float, float],
    blocks: int,
) -> Window | None:
    """A slice's window in blocks of its own, None where not even one is there."""
    newest = sorted((block for block in reach if min(held) <= block), reverse=True)
    spans = _cut(((block, (reach[block], slices.size(held.get(block, {})))) for block in newest), least, blocks)
    parts = []
    for low, high in spans:
        total: Columns = {}
        for block in sorted(block for block in held if low <= block <= high):
            for column, days in held[block].items():
                counts.add(total.setdefault(column, {}), days)
        parts.append(
            _made(stream.kind, stream.records, streams.before(low), min(head, streams.before(high + 1)), total, name)
        )
    return joined(parts, tuple(parts)) if parts else None


def _cut(sizes: Iterable[tuple[int, tuple[float, ...]]], least: tuple[float, ...], blocks: int) -> list[Span]:
    """Runs of sketch blocks (low, high) that hold `least` each, oldest first, cut from the newest backwards."""
    spans: list[Span] = []
    held, high = [0.0] * len(least), None
    for block, counted in sizes:
        if high is None:
            high = spans[-1][0] - 1 if spans else block
        held = [one + n for one, n in zip(held, counted, strict=True)]
        if all(one >= enough for one, enough in zip(held, least, strict=True)):
            spans.append((block, high))
            held, high = [0.0] * len(least), None
        if len(spans) == blocks:
            break
    return spans[::-1]


def _sample(session: Session, stream: Stream, window: Window, size: int, seed: int) -> list[dict[str, sketch.Value]]:
    """Up to `size` rows of the window, or of its slice, with the columns that the window has."""
    name, _, value = stream.slice.partition("=")
    told = name in ("", sketch.TENANT)  # by the query
    drawn = samples.rows(session, stream.rows, (window.first, window.last), size if told else SEARCH * size, seed)
    found = []
    for row in drawn:
        columns = samples.columns(row)
        if told or columns.get(name) == value:
            found.append({column: columns[column] for column in columns if column in window.columns})
    return found[:size]
