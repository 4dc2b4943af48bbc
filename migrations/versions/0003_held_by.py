"""Who ended a hold: a record that teaches again is marked with the person who let it go.

Owns: one column of `held`. Called by `daemon.schema` through alembic.
"""

import sqlalchemy as sa
from alembic import op

from policies.errors import Refused

revision = "0003_held_by"
down_revision = "0002_ledger"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what was ended before has nobody's name."""
    with op.batch_alter_table("held") as table:
        table.add_column(sa.Column("ended_by", sa.String(), nullable=False, server_default=""))
    with op.batch_alter_table("held") as table:
        table.alter_column("ended_by", server_default=None)


def downgrade() -> None:
    """Not offered.

    Raises: Refused.
    """
    raise Refused("the schema is not taken back", hint="restore the backup of the release before")
