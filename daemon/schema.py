"""The database's schema: brings it to the newest step under a lock, or says why it doesn't fit this program.

Owns: where the migrations lie and who may run them. Refuses to know any table. Called by `daemon.service` (migrates),
`daemon.ctl` and jobs (check only), and tests.
"""

from functools import cache
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from policies.errors import Misconfigured, Transient

log = structlog.get_logger()

LOCK = 0x6C6561726E64  # "learnd": the key of PostgreSQL's advisory lock


def migrate(engine: Engine) -> str:
    """Bring the database to the newest schema in one transaction under a lock; returns the revision it is at now.

    Several daemons may call it at once: one works, the others wait and find it done.
    Raises: Misconfigured where the database is newer than this program or holds something in the way, Transient where
    it is away or stays locked.
    """
    try:
        with engine.connect().execution_options(**_isolation(engine)) as connection, connection.begin():
            # SQLite needs no more: its transactions begin IMMEDIATE (feedback.db), which is the lock.
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            before = _known(connection)
            if before != head():
                _upgrade(connection)
                log.info("schema migrated", before=before or "empty", after=head())
            return head()
    except OperationalError as error:
        raise Transient(f"the database is away: {error.orig}", hint="is the database server running?") from error


def check(engine: Engine) -> None:
    """Refuse a database that this program can't read, without changing it.

    Raises: Misconfigured where it is newer or was never migrated, Transient where it is away.
    """
    try:
        with engine.connect().execution_options(learnd_reads=True) as connection:
            found = _known(connection)
    except OperationalError as error:
        raise Transient(f"the database is away: {error.orig}", hint="is the database server running?") from error
    if found != head():
        raise Misconfigured(
            f"the database's schema is {found or 'empty'}, this learnd needs {head()}",
            hint="start learnd once with this configuration: it brings the schema up by itself",
        )


def head() -> str:
    """The newest revision that this program knows."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise Misconfigured("the migrations folder is empty", hint="reinstall learnd")
    return revision


def migrations() -> Path:
    """The folder of the migrations: beside the packages in a checkout, inside this package in a wheel.

    Raises: Misconfigured where neither is there.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "migrations", here.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise Misconfigured("learnd was installed without its migrations", hint="reinstall learnd")


@cache
def _scripts() -> ScriptDirectory:
    # Read once: a folder that an upgrade replaces belongs to the learnd that starts after it.
    return ScriptDirectory(str(migrations()))


def _isolation(engine: Engine) -> dict[str, str]:
    # A serializable transaction would look at the database as it was before it waited for the lock.
    return {"isolation_level": "READ COMMITTED"} if engine.dialect.name == "postgresql" else {}


def _known(connection: Connection) -> str | None:
    """The database's revision (None: empty), which must be one of ours."""
    found = MigrationContext.configure(connection).get_current_revision()
    ours = {script.revision for script in _scripts().walk_revisions()}
    if found is not None and found not in ours:
        raise Misconfigured(
            f"the database's schema {found} is newer than this learnd, which knows up to {head()}",
            hint="install the learnd that wrote it, or restore the backup made before that upgrade",
        )
    return found


def _upgrade(connection: Connection) -> None:
    try:
        command.upgrade(_config(connection), "head")
    except (ProgrammingError, OperationalError) as error:
        if error.connection_invalidated:
            raise
        raise Misconfigured(
            f"the migration met something that isn't learnd's: {error.orig}",
            hint="give learnd a database (or a PostgreSQL schema) of its own; nothing was changed in this one",
        ) from error


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
