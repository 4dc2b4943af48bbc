"""The tables of the daemon: slots, cycles, decisions, versions, measurements, commands, goldens, audit.

Owns: columns, keys and the indexes that hold laws (one open decision a slot). Refuses to know queries. Called by the
modules of this package, each of which writes only its own nouns. Times are unix seconds.
"""

from typing import Any

from sqlalchemy import Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from feedback.db import Base, BigInt


class Slot(Base):
    """(deployment, tenant or "" for the base): what has a champion and a lifecycle of its own."""

    __tablename__ = "slots"
    id: Mapped[int] = mapped_column(primary_key=True)
    deployment: Mapped[str]
    tenant: Mapped[str] = mapped_column(default="")
    phase: Mapped[str]
    phase_since: Mapped[float]
    champion: Mapped[str] = mapped_column(default="")
    predecessor: Mapped[str] = mapped_column(default="")
    rolling_back_to: Mapped[str] = mapped_column(default="")
    anchor: Mapped[str] = mapped_column(default="")
    promoted: Mapped[float] = mapped_column(default=0.0)
    ramp_step: Mapped[int] = mapped_column(default=0)
    ramp_since: Mapped[float] = mapped_column(default=0.0)
    cycle: Mapped[int] = mapped_column(default=0)
    window_end: Mapped[int] = mapped_column(BigInt, default=0)
    paused_by: Mapped[str] = mapped_column(default="")
    evidence_job: Mapped[str] = mapped_column(default="")
    cause: Mapped[str] = mapped_column(default="")
    reason: Mapped[str] = mapped_column(default="")
    reason_at: Mapped[float] = mapped_column(default=0.0)
    attempt: Mapped[dict[str, Any]] = mapped_column(default=dict)
    __table_args__ = (UniqueConstraint("deployment", "tenant"),)


class Cycle(Base):
    """One attempt of a slot, from trigger to settled or rejected. `outcome` is "" while it runs."""

    __tablename__ = "cycles"
    id: Mapped[int] = mapped_column(primary_key=True)
    slot: Mapped[int]
    trigger: Mapped[str]
    reason: Mapped[str]
    method: Mapped[str]
    step: Mapped[str]
    window_first: Mapped[int] = mapped_column(BigInt)
    window_last: Mapped[int] = mapped_column(BigInt)
    seed: Mapped[int]
    policy_hash: Mapped[str]
    dataset: Mapped[str] = mapped_column(default="")
    candidate: Mapped[str] = mapped_column(default="")
    teacher: Mapped[str] = mapped_column(default="")
    champion: Mapped[str] = mapped_column(default="")
    job: Mapped[str] = mapped_column(default="")
    evaluation: Mapped[str] = mapped_column(default="")
    losses: Mapped[int] = mapped_column(default=0)
    spent_seconds: Mapped[float] = mapped_column(default=0.0)
    started: Mapped[float]
    asked: Mapped[float] = mapped_column(default=0.0)
    ended: Mapped[float | None]
    outcome: Mapped[str] = mapped_column(default="")
    outcome_reason: Mapped[str] = mapped_column(default="")
    __table_args__ = (Index("cycles_slot", "slot", "id"),)


class Decision(Base):
    """What was decided on which snapshot under which policy, and what the act answered (`outcome` None: still open)."""

    __tablename__ = "decisions"
    id: Mapped[int] = mapped_column(primary_key=True)
    slot: Mapped[int]
    cycle: Mapped[int] = mapped_column(default=0)
    action: Mapped[str]
    body: Mapped[dict[str, Any]]
    reason: Mapped[str]
    snapshot: Mapped[dict[str, Any]]
    policy_hash: Mapped[str]
    at: Mapped[float]
    outcome: Mapped[str | None]
    answer: Mapped[dict[str, Any]] = mapped_column(default=dict)
    ended: Mapped[float | None]
    __table_args__ = (
        Index(
            "one_open_decision_a_slot",
            "slot",
            unique=True,
            sqlite_where=text("outcome IS NULL"),
            postgresql_where=text("outcome IS NULL"),
        ),
        Index("decisions_slot", "slot", "id"),
    )


class PolicyRow(Base):
    """A policy that was in force: its text by its hash, so that every decision can be judged again."""

    __tablename__ = "policies"
    hash: Mapped[str] = mapped_column(primary_key=True)
    deployment: Mapped[str]
    text: Mapped[str]
    loaded: Mapped[float]


class VersionRow(Base):
    """A version in the registry. `state`: adopted, candidate, rejected, champion, retired, teacher.

    `deleted`: when retention gave its files up (None: they are there); the row, its manifest and evidence stay.
    """

    __tablename__ = "versions"
    name: Mapped[str] = mapped_column(primary_key=True)
    deployment: Mapped[str]
    kind: Mapped[str]
    base: Mapped[str]
    parent: Mapped[str] = mapped_column(default="")
    method: Mapped[str] = mapped_column(default="")
    depth: Mapped[int] = mapped_column(default=0)
    state: Mapped[str]
    dataset: Mapped[str] = mapped_column(default="")
    cycle: Mapped[int] = mapped_column(default=0)
    manifest: Mapped[dict[str, Any]]
    evidence: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created: Mapped[float]
    deleted: Mapped[float | None]


class MeasurementRow(Base):
    """One measurement of a version in an environment; `evaluation` is the job that made it."""

    __tablename__ = "measurements"
    id: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=True)
    evaluation: Mapped[str]
    probe: Mapped[str]
    set: Mapped[str]
    item: Mapped[str]
    slice: Mapped[str]
    version: Mapped[str]
    value: Mapped[float]
    seed: Mapped[int] = mapped_column(BigInt)
    environment: Mapped[str]
    said: Mapped[str] = mapped_column(default="")
    __table_args__ = (
        UniqueConstraint("evaluation", "version", "probe", "set", "item"),
        Index("measurements_version", "version", "probe"),
    )


class VerdictRow(Base):
    """A stored verdict of one gate on one candidate in one evaluation, under one policy."""

    __tablename__ = "verdicts"
    id: Mapped[int] = mapped_column(primary_key=True)
    cycle: Mapped[int]
    evaluation: Mapped[str]
    version: Mapped[str]
    champion: Mapped[str]
    anchor: Mapped[str]
    gate: Mapped[str]
    gate_version: Mapped[int]
    result: Mapped[str]
    reason: Mapped[str]
    claims: Mapped[list[Any]]
    policy_hash: Mapped[str]
    at: Mapped[float]
    __table_args__ = (UniqueConstraint("evaluation", "version", "gate", "policy_hash"),)


class LedgerRow(Base):
    """What an evaluation spent of a gate's error rate: the `number`-th candidate on `items`, whose name says which.

    `sets`: the accepted ones among them as [name, role, items, version].
    """

    __tablename__ = "ledger"
    id: Mapped[int] = mapped_column(primary_key=True)
    deployment: Mapped[str]
    gate: Mapped[str]
    items: Mapped[str]
    candidate: Mapped[str]
    evaluation: Mapped[str]
    number: Mapped[int]
    share: Mapped[float]
    remaining: Mapped[float]
    at: Mapped[float]
    sets: Mapped[list[Any]]
    __table_args__ = (UniqueConstraint("evaluation", "gate"), Index("ledger_items", "deployment", "gate", "items"))


class CostRow(Base):
    """What a job took that came to an end, over all its attempts; None where nobody could measure it.

    `cycle` is 0, `version` and `method` are "" for a drift report. `money` by the prices of its day; `device` is what it
    ran on, `counters` (RAPL, NVML) are whose joules these are.
    """

    __tablename__ = "costs"
    id: Mapped[int] = mapped_column(primary_key=True)
    job: Mapped[str]
    kind: Mapped[str]
    deployment: Mapped[str]
    cycle: Mapped[int]
    version: Mapped[str]
    method: Mapped[str]
    at: Mapped[float]
    seconds: Mapped[float]
    cpu_seconds: Mapped[float | None]
    gpu_seconds: Mapped[float | None]
    joules: Mapped[float | None]
    tokens: Mapped[int | None] = mapped_column(BigInt)
    money: Mapped[float | None]
    currency: Mapped[str]
    device: Mapped[str]
    counters: Mapped[str]
    __table_args__ = (
        UniqueConstraint("job"),
        Index("costs_deployment", "deployment", "at"),
        Index("costs_cycle", "cycle"),
    )


class DriftRow(Base):
    """A drift report as it was made."""

    __tablename__ = "drift_reports"
    id: Mapped[int] = mapped_column(primary_key=True)
    slot: Mapped[int]
    detector: Mapped[str]
    drifted: Mapped[bool]
    report: Mapped[dict[str, Any]]
    at: Mapped[float]
    __table_args__ = (Index("drift_slot", "slot", "detector", "id"),)


class Baseline(Base):
    """Frozen references of a slot: `inputs` and `outcomes`, each a window of sequence numbers and its aggregates."""

    __tablename__ = "baselines"
    id: Mapped[int] = mapped_column(primary_key=True)
    slot: Mapped[int]
    kind: Mapped[str]
    version: Mapped[str]
    first: Mapped[int] = mapped_column(BigInt)
    last: Mapped[int] = mapped_column(BigInt)
    aggregates: Mapped[dict[str, Any]]
    at: Mapped[float]
    __table_args__ = (Index("baselines_slot", "slot", "kind", "id"),)


class CommandRow(Base):
    """A person's wish as it came in: who, what, why. `outcome` is "" until the loop answered it."""

    __tablename__ = "commands"
    id: Mapped[int] = mapped_column(primary_key=True)
    deployment: Mapped[str]
    tenant: Mapped[str] = mapped_column(default="")
    verb: Mapped[str]
    version: Mapped[str] = mapped_column(default="")
    actor: Mapped[str]
    role: Mapped[str]
    reason: Mapped[str]
    at: Mapped[float]
    outcome: Mapped[str] = mapped_column(default="")
    answer: Mapped[str] = mapped_column(default="")
    ended: Mapped[float | None]
    __table_args__ = (Index("commands_open", "outcome"),)


class GoldenSet(Base):
    """A versioned, hashed set of items. `role`: goldens, safety, anchor. Only an accepted one is used."""

    __tablename__ = "golden_sets"
    id: Mapped[int] = mapped_column(primary_key=True)
    deployment: Mapped[str]
    name: Mapped[str]
    role: Mapped[str]
    version: Mapped[str]
    hash: Mapped[str]
    accepted_by: Mapped[str] = mapped_column(default="")
    current: Mapped[bool]
    at: Mapped[float]
    __table_args__ = (UniqueConstraint("deployment", "name", "hash"),)


class GoldenItem(Base):
    """One item: `body` holds messages, check and reference as imported."""

    __tablename__ = "golden_items"
    set: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(primary_key=True)
    slice: Mapped[str] = mapped_column(default="")
    body: Mapped[dict[str, Any]]


class AuditRow(Base):
    """One entry of the log: canonical JSON, its leaf hash, and the tree's root after it. Never updated or deleted.

    `frontier`: hashes of the complete subtrees after it, largest first; appending needs no other row.
    """

    __tablename__ = "audit"
    index: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=False)
    entry: Mapped[bytes] = mapped_column(LargeBinary)
    leaf: Mapped[str]
    root: Mapped[str]
    frontier: Mapped[list[Any]] = mapped_column(default=list)


class Due(Base):
    """What the clock owes: unique on (name, due), so that a restart neither drops nor doubles a job."""

    __tablename__ = "due"
    name: Mapped[str] = mapped_column(primary_key=True)
    due: Mapped[float] = mapped_column(primary_key=True)
    done: Mapped[float | None]


class Lease(Base):
    """The one leader, by database time; `token` fences effects of an older one."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    token: Mapped[int] = mapped_column(BigInt)
    until: Mapped[float]


class Setting(Base):
    """Small single values of the service: since when it runs, the schema's cluster id, key versions."""

    __tablename__ = "settings"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
