"""Sketches of blocks of a hundred records, by weekday and by the version that was rated: older ones are counted anew.

Owns: that step. A sketch of a thousand records can't be cut into ten, so the old ones go; baselines stay as they were
frozen, and drift is judged again as soon as enough records have come in. Called by `daemon.schema` through alembic.
"""

from alembic import op

from policies.errors import Refused

revision = "0004_drift_blocks"
down_revision = "0003_held_by"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Leave no sketch of the old form behind."""
    op.execute("DELETE FROM sketches")


def downgrade() -> None:
    """Refused: what was counted by weekday would be read as something else. Raises: Refused."""
    raise Refused("sketches can't be made older", hint="restore the backup made before the upgrade")
