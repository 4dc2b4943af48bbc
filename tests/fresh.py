"""Empty databases by the hundred: the migrations run once a process, then SQLite's file is copied."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import Engine

from daemon import schema
from feedback import db


def migrate(engine: Engine) -> None:
    """`daemon.schema.migrate` for a database that is empty: what it makes of one is always the same."""
    if engine.dialect.name != "sqlite":
        schema.migrate(engine)
    else:
        shutil.copyfile(_migrated(), str(engine.url.database))


@cache
def _migrated() -> Path:
    path = Path(tempfile.mkdtemp(prefix="learnd-schema-")) / "empty.db"
    engine = db.connect(f"sqlite:///{path}")
    schema.migrate(engine)
    engine.dispose()  # the last to leave writes the log back: the file is whole
    return path
