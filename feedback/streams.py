"""The sketches of one kind of records of a deployment, block by block: what windows are summed from.

Owns: which rows of the sketches (and of the records) a window is made of, and reading them in order. Refuses to sum and
to freeze. Called by `feedback.windows`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Text, and_, cast, func, select
from sqlalchemy.orm import Session

from feedback import asked, counts, sketch, slices
from feedback.asked import Asked
from feedback.counts import Days
from feedback.slices import Part
from feedback.tables import Record, Sketch

PAGE = 256  # blocks
PARSED = 200  # rows


@dataclass(frozen=True, slots=True)
class Stream:
    """Which records a window is made of, in sketches and as rows: `kind` inputs or outcomes, `records` of that kind.

    `version`: whose answers outcomes are of. `slice`: the one whose rows are wanted ("": all).
    """

    deployment: str
    kind: str
    records: str
    version: str
    slice: str = ""

    @property
    def sketches(self) -> tuple[ColumnElement[bool], ...]:
        """Its rows of the sketches."""
        kind = sketch.OUTCOMES if self.kind == "outcomes" else self.records
        return (Sketch.deployment == self.deployment, Sketch.kind == kind)

    @property
    def counted(self) -> ColumnElement[bool]:
        """The one column that counts what a block holds."""
        return Sketch.column == (self.version if self.kind == "outcomes" else sketch.RECORDS)

    @property
    def rows(self) -> list[ColumnElement[bool]]:
        """Its records; of the slices only a tenant is told by a column of the table."""
        # An erased record has nothing left to show; the rest counts as it did at ingest, held back or not.
        mine = [Record.deployment == self.deployment, Record.kind == self.records, Record.state != "erased"]
        name, _, value = self.slice.partition("=")
        if name == sketch.TENANT:
            mine.append(Record.tenant == value)
        return [*mine, Record.model_version == self.version] if self.kind == "outcomes" else mine


def head(session: Session) -> int:
    """The newest record's sequence number, 0 without any."""
    return session.scalar(select(func.max(Record.seq))) or 0


def before(block: int) -> int:
    """The sequence number before a block's first; they begin at 1."""
    return max(block * sketch.BLOCK - 1, 0)


def stream(session: Session, deployment: str, kind: str, version: str) -> Stream:
    """The stream of that kind: inputs are exposures, or feedback where the deployment sends none."""
    if kind == "outcomes":
        return Stream(deployment, kind, sketch.FEEDBACK, version)
    query = select(Sketch.block).where(Sketch.deployment == deployment, Sketch.kind == "exposure").limit(1)
    return Stream(deployment, kind, sketch.FEEDBACK if session.scalar(query) is None else "exposure", "")


def between(start: int, stop: int) -> ColumnElement[bool]:
    """Blocks [start, stop)."""
    return and_(Sketch.block >= start, Sketch.block < stop)


def inside(session: Session, stream: Stream, start: int, stop: int, most: int) -> ColumnElement[bool]:
    """Blocks [start, stop), `most` of them evenly taken (0: all)."""
    every = between(start, stop)
    if most:
        query = select(Sketch.block).where(*stream.sketches, every, stream.counted).order_by(Sketch.block.desc())
        there = session.scalars(query).all()
        if len(there) > most:
            return Sketch.block.in_(there[:: -(-len(there) // most)])
    return every


def parts(session: Session, stream: Stream, inside: ColumnElement[bool]) -> Iterator[tuple[int, str, Days]]:
    """Block, column and counts of every sketch over the blocks that `inside` names, in order."""
    query = select(Sketch.block, Sketch.column, cast(Sketch.counts, Text)).where(*stream.sketches, inside)
    if stream.kind == "outcomes":
        query = query.where(stream.counted)
    # A wide window is tens of thousands of small rows: past the ORM, and parsed many at once, so that they share keys.
    for page in session.connection().execute(query.order_by(Sketch.block)).partitions(PARSED):
        parsed = json.loads(f"[{','.join(text for _, _, text in page)}]")
        for (block, name, _), days in zip(page, parsed, strict=True):
            yield block, sketch.RATING if stream.kind == "outcomes" else name, days


def sliced(session: Session, stream: Stream, inside: ColumnElement[bool]) -> Iterator[Part]:
    """The counts of every slice over the blocks that `inside` names, in order."""
    if stream.kind == "inputs":
        yield from slices.parts(session, stream.deployment, stream.records, inside)
        return
    for block, _, rating in parts(session, stream, inside):
        yield from slices.rated(block, rating)


def questions(session: Session, stream: Stream, inside: ColumnElement[bool]) -> Asked | None:
    """What was asked over the blocks that `inside` names; None of outcomes."""
    if stream.kind == "outcomes":
        return None
    mine = (Sketch.deployment == stream.deployment, Sketch.kind == stream.records + sketch.QUESTIONS, inside)
    return asked.merged(asked.from_json(days[""]) for days in session.scalars(select(Sketch.counts).where(*mine)))


def reach(session: Session, stream: Stream, records: int) -> dict[int, float]:
    """The newest blocks that hold so many records together (all, if fewer), with the number of each."""
    found, held = dict[int, float](), 0.0
    for block, n in sizes(session, stream, 0):
        found[block] = n
        held += n
        if held >= records:
            break
    return found


def sizes(session: Session, stream: Stream, after: int) -> Iterator[tuple[int, float]]:
    """The blocks that begin after `after` with how many values of that kind they hold, newest first."""
    lowest = -(-(after + 1) // sketch.BLOCK) if after > 0 else 0
    query = select(Sketch.block, Sketch.counts).where(*stream.sketches, stream.counted, Sketch.block >= lowest)
    query, oldest = query.order_by(Sketch.block.desc()).limit(PAGE), None
    while True:
        page = session.execute(query if oldest is None else query.where(Sketch.block < oldest)).all()
        for block, days in page:
            yield block, sum(counts.judged(one) for one in days.values())
        if len(page) < PAGE:
            return
        oldest = page[-1][0]
