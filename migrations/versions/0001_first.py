"""The first schema: records, slots, cycles, decisions, versions, goldens, and the audit log that nobody edits.

Owns: the tables as they were at the first release, written out so that later changes of the models don't change this
step, and the triggers that refuse to change or remove an audit entry. Called by `daemon.schema` through alembic.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from policies.errors import Refused

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.String()
REAL = sa.Double()
WHOLE = sa.Integer()
TRUTH = sa.Boolean()
BYTES = sa.LargeBinary()
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(JSONB(), "postgresql")

MESSAGE = "the audit log is append-only"

SQLITE_TRIGGERS = (
    f"CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
    f"CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
    # INSERT OR REPLACE deletes without firing delete triggers (unless recursive_triggers is on), so it is met here.
    "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit"
    ' WHEN EXISTS (SELECT 1 FROM audit WHERE "index" = NEW."index")'
    f" BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
)

POSTGRESQL_TRIGGERS = (
    "CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS"
    f" $$ BEGIN RAISE EXCEPTION '{MESSAGE}' USING ERRCODE = 'restrict_violation'; END $$",
    # A statement trigger also meets TRUNCATE, and an UPDATE or DELETE that would match no row.
    "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit"
    " FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
    # Triggers of a superuser's session_replication_role = replica are skipped unless they are ALWAYS.
    "ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_append_only",
)


def _all(kind: Any, *names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=nullable) for name in names]


def upgrade() -> None:
    """Create every table, its indexes, and the audit triggers."""
    _records()
    _offsets()
    _dead_letters()
    _counters()
    _held()
    _tombstones()
    _gaps()
    _sketches()
    _datasets()
    _slots()
    _cycles()
    _decisions()
    _policies()
    _versions()
    _measurements()
    _verdicts()
    _drift_reports()
    _baselines()
    _commands()
    _golden_sets()
    _golden_items()
    _audit()
    _due()
    _leases()
    _settings()
    _audit_triggers()


def _records() -> None:
    op.create_table(
        "records",
        *_all(BIG, "seq"),
        *_all(TEXT, "deployment", "id", "kind", "tenant", "interaction"),
        *_all(REAL, "time", "ingested"),
        *_all(TEXT, "model_version", "fold", "usable"),
        *_all(REAL, "rating", nullable=True),
        *_all(TEXT, "consent", "user_hash"),
        *_all(WHOLE, "key_version"),
        *_all(TEXT, "content_hash", "prompt_hash", "commitment", "commitment_key"),
        *_all(REAL, "weight"),
        *_all(TEXT, "state"),
        *_all(JSON, "features"),
        *_all(REAL, "sampling", nullable=True),
        *_all(JSON, "body"),
        *_all(TEXT, "source"),
        *_all(WHOLE, "partition"),
        *_all(BIG, "offset"),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("deployment", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("records_interaction", "records", ["deployment", "interaction", "user_hash"])
    op.create_index("records_user", "records", ["user_hash"])
    op.create_index("records_version", "records", ["deployment", "model_version", "seq"])
    op.create_index("records_window", "records", ["deployment", "tenant", "seq"])


def _offsets() -> None:
    op.create_table(
        "offsets",
        *_all(TEXT, "cluster", "topic", "topic_id"),
        *_all(WHOLE, "partition"),
        *_all(BIG, "next", "generation"),
        *_all(TEXT, "owner"),
        sa.PrimaryKeyConstraint("cluster", "topic", "topic_id", "partition"),
    )


def _dead_letters() -> None:
    op.create_table(
        "dead_letters",
        *_all(BIG, "id"),
        *_all(TEXT, "deployment", "reason", "field", "message", "body", "source", "topic_id"),
        *_all(WHOLE, "partition"),
        *_all(BIG, "offset"),
        *_all(REAL, "at"),
        *_all(REAL, "published", nullable=True),
        *_all(TEXT, "record", "user_hash"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("source", "topic_id", "partition", "offset"),
    )
    op.create_index("dead_letters_outbox", "dead_letters", ["published"])
    op.create_index("dead_letters_record", "dead_letters", ["deployment", "record"])


def _counters() -> None:
    op.create_table(
        "counters",
        *_all(TEXT, "deployment", "name"),
        *_all(BIG, "value"),
        sa.PrimaryKeyConstraint("deployment", "name"),
    )


def _held() -> None:
    op.create_table(
        "held",
        *_all(BIG, "seq"),
        *_all(TEXT, "deployment", "reason"),
        *_all(REAL, "at"),
        *_all(REAL, "ended", nullable=True),
        *_all(TEXT, "ending"),
        sa.PrimaryKeyConstraint("seq"),
    )


def _tombstones() -> None:
    op.create_table(
        "tombstones",
        *_all(BIG, "id"),
        *_all(TEXT, "deployment", "request"),
        *_all(JSON, "seqs", "versions"),
        *_all(REAL, "at", "before"),
        *_all(TRUTH, "settled"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("tombstones_request", "tombstones", ["deployment", "request"])


def _gaps() -> None:
    op.create_table(
        "gaps",
        *_all(BIG, "id"),
        *_all(TEXT, "source"),
        *_all(WHOLE, "partition"),
        *_all(BIG, "first", "last"),
        *_all(REAL, "at"),
        *_all(TRUTH, "audited"),
        sa.PrimaryKeyConstraint("id"),
    )


def _sketches() -> None:
    op.create_table(
        "sketches",
        *_all(TEXT, "deployment"),
        *_all(BIG, "block"),
        *_all(TEXT, "kind", "column"),
        *_all(JSON, "counts"),
        sa.PrimaryKeyConstraint("deployment", "block", "kind", "column"),
    )


def _datasets() -> None:
    op.create_table(
        "datasets",
        *_all(TEXT, "hash", "deployment"),
        *_all(REAL, "created"),
        *_all(JSON, "card", "seqs"),
        sa.PrimaryKeyConstraint("hash"),
    )


def _slots() -> None:
    op.create_table(
        "slots",
        *_all(WHOLE, "id"),
        *_all(TEXT, "deployment", "tenant", "phase"),
        *_all(REAL, "phase_since"),
        *_all(TEXT, "champion", "predecessor", "rolling_back_to", "anchor"),
        *_all(REAL, "promoted"),
        *_all(WHOLE, "ramp_step"),
        *_all(REAL, "ramp_since"),
        *_all(WHOLE, "cycle"),
        *_all(BIG, "window_end"),
        *_all(TEXT, "paused_by", "evidence_job", "cause", "reason"),
        *_all(REAL, "reason_at"),
        *_all(JSON, "attempt"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("deployment", "tenant"),
    )


def _cycles() -> None:
    op.create_table(
        "cycles",
        *_all(WHOLE, "id", "slot"),
        *_all(TEXT, "trigger", "reason", "method", "step"),
        *_all(BIG, "window_first", "window_last"),
        *_all(WHOLE, "seed"),
        *_all(TEXT, "policy_hash", "dataset", "candidate", "teacher", "champion", "job", "evaluation"),
        *_all(WHOLE, "losses"),
        *_all(REAL, "spent_seconds", "started", "asked"),
        *_all(REAL, "ended", nullable=True),
        *_all(TEXT, "outcome", "outcome_reason"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("cycles_slot", "cycles", ["slot", "id"])


def _decisions() -> None:
    op.create_table(
        "decisions",
        *_all(WHOLE, "id", "slot", "cycle"),
        *_all(TEXT, "action"),
        *_all(JSON, "body"),
        *_all(TEXT, "reason"),
        *_all(JSON, "snapshot"),
        *_all(TEXT, "policy_hash"),
        *_all(REAL, "at"),
        *_all(TEXT, "outcome", nullable=True),
        *_all(JSON, "answer"),
        *_all(REAL, "ended", nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("decisions_slot", "decisions", ["slot", "id"])
    op.create_index(
        "one_open_decision_a_slot",
        "decisions",
        ["slot"],
        unique=True,
        sqlite_where=sa.text("outcome IS NULL"),
        postgresql_where=sa.text("outcome IS NULL"),
    )


def _policies() -> None:
    op.create_table(
        "policies",
        *_all(TEXT, "hash", "deployment", "text"),
        *_all(REAL, "loaded"),
        sa.PrimaryKeyConstraint("hash"),
    )


def _versions() -> None:
    op.create_table(
        "versions",
        *_all(TEXT, "name", "deployment", "kind", "base", "parent", "method"),
        *_all(WHOLE, "depth"),
        *_all(TEXT, "state", "dataset"),
        *_all(WHOLE, "cycle"),
        *_all(JSON, "manifest", "evidence"),
        *_all(REAL, "created"),
        *_all(REAL, "deleted", nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )


def _measurements() -> None:
    op.create_table(
        "measurements",
        *_all(BIG, "id"),
        *_all(TEXT, "evaluation", "probe", "set", "item", "slice", "version"),
        *_all(REAL, "value"),
        *_all(BIG, "seed"),
        *_all(TEXT, "environment", "said"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("evaluation", "version", "probe", "set", "item"),
    )
    op.create_index("measurements_version", "measurements", ["version", "probe"])


def _verdicts() -> None:
    op.create_table(
        "verdicts",
        *_all(WHOLE, "id", "cycle"),
        *_all(TEXT, "evaluation", "version", "champion", "anchor", "gate"),
        *_all(WHOLE, "gate_version"),
        *_all(TEXT, "result", "reason"),
        *_all(JSON, "claims"),
        *_all(TEXT, "policy_hash"),
        *_all(REAL, "at"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("evaluation", "version", "gate", "policy_hash"),
    )


def _drift_reports() -> None:
    op.create_table(
        "drift_reports",
        *_all(WHOLE, "id", "slot"),
        *_all(TEXT, "detector"),
        *_all(TRUTH, "drifted"),
        *_all(JSON, "report"),
        *_all(REAL, "at"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("drift_slot", "drift_reports", ["slot", "detector", "id"])


def _baselines() -> None:
    op.create_table(
        "baselines",
        *_all(WHOLE, "id", "slot"),
        *_all(TEXT, "kind", "version"),
        *_all(BIG, "first", "last"),
        *_all(JSON, "aggregates"),
        *_all(REAL, "at"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("baselines_slot", "baselines", ["slot", "kind", "id"])


def _commands() -> None:
    op.create_table(
        "commands",
        *_all(WHOLE, "id"),
        *_all(TEXT, "deployment", "tenant", "verb", "version", "actor", "role", "reason"),
        *_all(REAL, "at"),
        *_all(TEXT, "outcome", "answer"),
        *_all(REAL, "ended", nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("commands_open", "commands", ["outcome"])


def _golden_sets() -> None:
    op.create_table(
        "golden_sets",
        *_all(WHOLE, "id"),
        *_all(TEXT, "deployment", "name", "role", "version", "hash", "accepted_by"),
        *_all(TRUTH, "current"),
        *_all(REAL, "at"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("deployment", "name", "hash"),
    )


def _golden_items() -> None:
    op.create_table(
        "golden_items",
        *_all(WHOLE, "set"),
        *_all(TEXT, "item", "slice"),
        *_all(JSON, "body"),
        sa.PrimaryKeyConstraint("set", "item"),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("index", BIG, autoincrement=False, nullable=False),
        *_all(BYTES, "entry"),
        *_all(TEXT, "leaf", "root"),
        *_all(JSON, "frontier"),
        sa.PrimaryKeyConstraint("index"),
    )


def _due() -> None:
    op.create_table(
        "due",
        *_all(TEXT, "name"),
        *_all(REAL, "due"),
        *_all(REAL, "done", nullable=True),
        sa.PrimaryKeyConstraint("name", "due"),
    )


def _leases() -> None:
    op.create_table(
        "leases",
        *_all(TEXT, "name", "holder"),
        *_all(BIG, "token"),
        *_all(REAL, "until"),
        sa.PrimaryKeyConstraint("name"),
    )


def _settings() -> None:
    op.create_table(
        "settings",
        *_all(TEXT, "name", "value"),
        sa.PrimaryKeyConstraint("name"),
    )


def _audit_triggers() -> None:
    dialect = op.get_bind().dialect.name
    for statement in SQLITE_TRIGGERS if dialect == "sqlite" else POSTGRESQL_TRIGGERS:
        op.execute(statement)


def downgrade() -> None:
    """Refused: going back would drop records and the audit log.

    Raises: Refused, always.
    """
    raise Refused("the first schema can't be taken back", hint="restore the backup that was made before the migration")
