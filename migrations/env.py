"""What alembic runs for a migration: on the connection that `daemon.schema` gives, never on one of its own.

Owns: how alembic compares and runs. Refuses to know where the database is or who else may be migrating. Called by
alembic, on behalf of `daemon.schema`.
"""

from alembic import context

from daemon import tables as _daemon_tables  # noqa: F401  (fills the metadata)
from feedback import tables as _feedback_tables  # noqa: F401
from feedback.db import Base
from policies.errors import Misconfigured


def main() -> None:
    """Run the wanted steps in the transaction that the connection already holds.

    Raises: Misconfigured where alembic was started by itself.
    """
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise Misconfigured(
            "migrations run inside learnd, under its lock", hint="start learnd; daemon.schema.migrate(engine) from code"
        )
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite can't alter most things: later steps copy the table ("batch").
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()


main()
