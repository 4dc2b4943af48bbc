"""Costs: what each job took, in seconds, joules, tokens and money.

Owns: one table. Called by `daemon.schema` through alembic.
"""

import sqlalchemy as sa
from alembic import op

from policies.errors import Refused

revision = "0005_costs"
down_revision = "0004_drift_blocks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; jobs of before are not in it."""
    texts = ("job", "kind", "deployment", "version", "method", "currency", "device", "counters")
    op.create_table(
        "costs",
        sa.Column("id", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in texts),
        sa.Column("cycle", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("at", "seconds")),
        *(sa.Column(name, sa.Double(), nullable=True) for name in ("cpu_seconds", "gpu_seconds", "joules", "money")),
        sa.Column("tokens", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job"),
    )
    op.create_index("costs_deployment", "costs", ["deployment", "at"])
    op.create_index("costs_cycle", "costs", ["cycle"])


def downgrade() -> None:
    """Not offered.

    Raises: Refused.
    """
    raise Refused("the schema is not taken back", hint="restore the backup of the release before")
