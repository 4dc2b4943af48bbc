"""The tables of this package: records, where they came from, what was refused, what is held back, what was erased.

Owns: columns, keys and indexes. Refuses to know queries (`feedback.store`). Called by `feedback`, and by
`daemon.schema` for migrations. Times are unix seconds (float); sequence numbers rise by one for each stored record.
"""

from typing import Any

from sqlalchemy import Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from feedback.db import Base, BigInt


class Record(Base):
    """One stored record. `state`: live, superseded (a later signal of one user on one interaction), quarantined, erased.

    `usable`: what it teaches, decided at ingest: correction, pair, positive, negative, or "" (neutral, exposure,
    unconsented). `body` holds the content (messages, response, correction, preferred, rejected, comment, extra) and is
    emptied by an erasure, as are `commitment_key` and `prompt_hash`; `commitment` stays.
    """

    __tablename__ = "records"
    seq: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=True)
    deployment: Mapped[str]
    id: Mapped[str]
    kind: Mapped[str]
    tenant: Mapped[str] = mapped_column(default="")
    interaction: Mapped[str] = mapped_column(default="")
    time: Mapped[float]
    ingested: Mapped[float]
    model_version: Mapped[str] = mapped_column(default="")
    fold: Mapped[str]
    usable: Mapped[str] = mapped_column(default="")
    rating: Mapped[float | None]
    consent: Mapped[str] = mapped_column(default="none")
    user_hash: Mapped[str] = mapped_column(default="")
    key_version: Mapped[int] = mapped_column(default=1)
    content_hash: Mapped[str]
    prompt_hash: Mapped[str] = mapped_column(default="")
    commitment: Mapped[str]
    commitment_key: Mapped[str] = mapped_column(default="")
    weight: Mapped[float] = mapped_column(default=1.0)
    state: Mapped[str] = mapped_column(default="live")
    features: Mapped[dict[str, Any]]
    sampling: Mapped[float | None]
    body: Mapped[dict[str, Any]]
    source: Mapped[str]
    partition: Mapped[int] = mapped_column(default=0)
    offset: Mapped[int] = mapped_column(BigInt, default=0)
    __table_args__ = (
        UniqueConstraint("deployment", "id"),
        Index("records_window", "deployment", "tenant", "seq"),
        Index("records_interaction", "deployment", "interaction", "user_hash"),
        Index("records_user", "user_hash"),
        Index("records_version", "deployment", "model_version", "seq"),
        # AUTOINCREMENT: an erased or rolled-back sequence number is never given again.
        {"sqlite_autoincrement": True},
    )


class Offset(Base):
    """The next offset to read of one partition. A writer of an older `generation` is a zombie and is refused."""

    __tablename__ = "offsets"
    cluster: Mapped[str] = mapped_column(primary_key=True)
    topic: Mapped[str] = mapped_column(primary_key=True)
    topic_id: Mapped[str] = mapped_column(primary_key=True)
    partition: Mapped[int] = mapped_column(primary_key=True)
    next: Mapped[int] = mapped_column(BigInt)
    generation: Mapped[int] = mapped_column(BigInt, default=0)
    owner: Mapped[str] = mapped_column(default="")


class DeadLetter(Base):
    """A refused record with its reason and a redacted body; `published` is when the outbox sent it on (None: not yet).

    `record` and `user_hash` are what could be read of it, so that an erasure finds the body here too.
    """

    __tablename__ = "dead_letters"
    id: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=True)
    deployment: Mapped[str] = mapped_column(default="")
    reason: Mapped[str]
    field: Mapped[str] = mapped_column(default="")
    message: Mapped[str]
    body: Mapped[str]
    source: Mapped[str]
    topic_id: Mapped[str] = mapped_column(default="")
    partition: Mapped[int] = mapped_column(default=0)
    offset: Mapped[int] = mapped_column(BigInt, default=0)
    at: Mapped[float]
    published: Mapped[float | None]
    record: Mapped[str] = mapped_column(default="")
    user_hash: Mapped[str] = mapped_column(default="")
    __table_args__ = (
        # A topic that was deleted and made again counts its offsets anew: its id tells the two apart.
        UniqueConstraint("source", "topic_id", "partition", "offset"),
        Index("dead_letters_outbox", "published"),
        Index("dead_letters_record", "deployment", "record"),
    )


class Counter(Base):
    """Running counts of a deployment (stored, duplicates, dead_letters, …): a status costs no scan of records."""

    __tablename__ = "counters"
    deployment: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInt, default=0)


class Held(Base):
    """A record held back by `policies.trust`: until `ended_by` somebody, released (trains again) or dropped (never)."""

    __tablename__ = "held"
    seq: Mapped[int] = mapped_column(BigInt, primary_key=True)
    deployment: Mapped[str]
    reason: Mapped[str]
    at: Mapped[float]
    ended: Mapped[float | None]
    ending: Mapped[str] = mapped_column(default="")
    ended_by: Mapped[str] = mapped_column(default="")


class Tombstone(Base):
    """An erasure that was carried out: which records, and which versions had learned from them. No content.

    `request` is `id:` and a record's id, or `user:` and the keyed hash; `before` is the time the request carried.
    `settled`: training files are cleaned, `versions` is complete, and the audit log has it.
    """

    __tablename__ = "tombstones"
    id: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=True)
    deployment: Mapped[str]
    request: Mapped[str]
    seqs: Mapped[list[Any]]
    versions: Mapped[list[Any]]
    at: Mapped[float]
    before: Mapped[float] = mapped_column(default=0.0)
    settled: Mapped[bool] = mapped_column(default=False)
    __table_args__ = (Index("tombstones_request", "deployment", "request"),)


class Gap(Base):
    """Offsets that were gone before they were read: never skipped in silence. `audited` once the audit log has it."""

    __tablename__ = "gaps"
    id: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=True)
    source: Mapped[str]
    partition: Mapped[int]
    first: Mapped[int] = mapped_column(BigInt)
    last: Mapped[int] = mapped_column(BigInt)
    at: Mapped[float]
    audited: Mapped[bool] = mapped_column(default=False)


class Sketch(Base):
    """Counts of one column over one block of ingest sequence, kept at ingest: windows are sums of blocks.

    `block` = seq // 100. `counts` maps a weekday of ingest ("0" is Monday) to counts: a bin ("=" and a category, or the
    index of a fixed log-scaled bin as text) to its count, with `n`, and for numbers `sum` and `squares`, beside. Rows of
    kind `outcomes` have a version for their column, those of `feedback/questions` and `exposure/questions` hold hashes of
    what was asked (`feedback.asked`). `feedback.sketch` has the bins' edges.
    """

    __tablename__ = "sketches"
    deployment: Mapped[str] = mapped_column(primary_key=True)
    block: Mapped[int] = mapped_column(BigInt, primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    column: Mapped[str] = mapped_column(primary_key=True)
    counts: Mapped[dict[str, Any]]


class DatasetRow(Base):
    """A built training set: its hash, card, and lineage (the sequence numbers it was drawn from)."""

    __tablename__ = "datasets"
    hash: Mapped[str] = mapped_column(primary_key=True)
    deployment: Mapped[str]
    created: Mapped[float]
    card: Mapped[dict[str, Any]]
    seqs: Mapped[list[Any]]
