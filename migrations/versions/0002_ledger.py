"""The ledger: what each candidate spent of a gate's error rate on the items that it met.

Owns: one table. Called by `daemon.schema` through alembic.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002_ledger"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; candidates of before are not in it, and their verdicts replay at the whole error rate."""
    texts = ("deployment", "gate", "items", "candidate", "evaluation")
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in texts),
        sa.Column("number", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("share", "remaining", "at")),
        sa.Column("sets", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("evaluation", "gate"),
    )
    op.create_index("ledger_items", "ledger", ["deployment", "gate", "items"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("ledger")
