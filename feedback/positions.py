"""Positions: where each partition goes on, who reads it, and what was gone before it could be read.

Owns: the offset rows, their fencing, and the gaps. Refuses to know sources and records. Called by the sources when they
are given a partition, and by `feedback.ingest` inside its transaction.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from feedback.db import read, transact
from feedback.sources import Position, Raw
from feedback.statements import upsert
from feedback.tables import Gap, Offset

log = structlog.get_logger()

UNKNOWN = -1

Key = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class Claim:
    """`next`: the stored offset to go on at (None: never read). `generation`: what fences everyone who claimed before."""

    next: int | None
    generation: int


class Positions:
    """The stored positions, as sources use them. `owner` names this process in the row, for people."""

    def __init__(self, engine: Engine, owner: str, now: Callable[[], float]) -> None:
        self._engine = engine
        self._owner = owner
        self._now = now

    def claim(self, cluster: str, source: str, topic_id: str, partition: int) -> Claim:
        """Take a partition over: whoever claimed it before can store nothing from it any more.

        A topic that was deleted and made again (another id) starts anew, and the loss is kept as a gap of unknown length.
        Raises: Transient where the database is away.
        """

        def work(session: Session) -> Claim:
            lock(session)
            row = session.get(Offset, (cluster, source, topic_id, partition))
            if row is None:
                self._made_anew(session, cluster, source, topic_id, partition)
                row = Offset(cluster=cluster, topic=source, topic_id=topic_id, partition=partition, next=UNKNOWN)
                row.generation = 0
                session.add(row)
            row.generation += 1
            row.owner = self._owner
            return Claim(None if row.next == UNKNOWN else row.next, row.generation)

        return transact(self._engine, work)

    def gap(
        self,
        cluster: str,
        source: str,
        topic_id: str,
        partition: int,
        *,
        last: int,
        resume: int,
        first: int | None = None,
    ) -> Claim:
        """The offsets from `first` (or the stored one) to `last` are gone: keep that as a gap, and go on at `resume`.

        It is a new claim: what was read before the gap was seen can no longer move the position.
        Raises: Transient where the database is away.
        """

        def work(session: Session) -> tuple[int, int]:
            lock(session)
            row = session.get_one(Offset, (cluster, source, topic_id, partition))
            start = max(row.next, 0) if first is None else first
            session.add(Gap(source=source, partition=partition, first=start, last=last, at=self._now()))
            row.next = resume
            row.generation += 1
            return start, row.generation

        start, generation = transact(self._engine, work)
        log.error("offsets are gone", source=source, partition=partition, first=start, last=last, resume=resume)
        return Claim(resume, generation)

    def source_of(self, cluster: str, topic_id: str) -> str | None:
        """The name under which this id was claimed first: a file keeps it when it is renamed.

        Raises: Transient where the database is away.
        """
        query = select(Offset.topic).where(Offset.cluster == cluster, Offset.topic_id == topic_id).limit(1)
        return read(self._engine, lambda session: session.scalar(query))

    def _made_anew(self, session: Session, cluster: str, source: str, topic_id: str, partition: int) -> None:
        query = (
            select(Offset)
            .where(Offset.cluster == cluster, Offset.topic == source, Offset.partition == partition)
            .where(Offset.topic_id != topic_id, Offset.next >= 0)
            .order_by(Offset.next.desc())
        )
        # A file that replaces another under its name is how files are rotated; nothing is lost by it.
        before = session.scalars(query).first() if cluster != FILES else None
        if before is not None:
            gap = Gap(source=source, partition=partition, first=before.next, last=UNKNOWN, at=self._now())
            session.add(gap)
            log.error("the topic was made anew", source=source, partition=partition, unread_from=before.next)


FILES = "files"  # the cluster of everything that is read from a folder


def lock(session: Session) -> None:
    """Let one transaction at a time give out sequence numbers: they become visible in their order, or a window that was
    already looked at would gain records. Must be the transaction's first statement: it takes no snapshot.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE offsets IN EXCLUSIVE MODE"))


def admit(session: Session, raws: Iterable[Raw]) -> tuple[list[Raw], list[Position]]:
    """Those messages that are neither stored already nor a zombie's, and the positions that were fenced off."""
    rows: dict[Key, Offset | None] = {}
    admitted, fenced = [], {}
    for raw in raws:
        key = key_of(raw)
        if key not in rows:
            rows[key] = session.get(Offset, key)
        row = rows[key]
        # Generation 0 without a row is a source that claims nothing (a test's): there is nobody to fence off.
        if (row.generation if row else 0) != raw.generation:
            fenced[key] = position_of(raw)
        elif row is None or raw.offset >= row.next:
            admitted.append(raw)
    return admitted, list(fenced.values())


def advance(session: Session, raws: Iterable[Raw]) -> list[Position]:
    """Store how far each partition was read; in the transaction that stores the records."""
    last: dict[Key, Raw] = {}
    for raw in raws:
        key = key_of(raw)
        if key not in last or raw.next > last[key].next:
            last[key] = raw
    rows = [
        {"cluster": c, "topic": t, "topic_id": i, "partition": p, "next": raw.next, "generation": raw.generation}
        for (c, t, i, p), raw in sorted(last.items(), key=lambda item: item[0])
    ]
    upsert(session, Offset, [row | {"owner": ""} for row in rows], update=("next",))
    return [position_of(raw) for raw in last.values()]


def key_of(raw: Raw) -> Key:
    """The primary key of the message's offset row."""
    return (raw.cluster, raw.source, raw.topic_id, raw.partition)


def position_of(raw: Raw) -> Position:
    """Where its partition goes on after this message."""
    return Position(raw.cluster, raw.source, raw.topic_id, raw.partition, raw.next, raw.generation)
