"""Two statements that SQLite and PostgreSQL share but SQLAlchemy spells by dialect: insert-or-ignore and upsert.

Owns: the dialects' difference. Refuses to know any table. Called by `feedback.store`, `feedback.ingest`,
`feedback.sketch`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Table, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from feedback.db import Base


def insert(session: Session, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """An INSERT of the session's dialect, which knows ON CONFLICT."""
    target = cast(Table, table.__table__)
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(target)
    return postgresql.insert(target)


def upsert(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]], *, update: Sequence[str]) -> None:
    """Insert the rows; where the primary key is taken, set the columns named by `update` instead."""
    if not rows:
        return
    statement = insert(session, table)
    keys = [column.name for column in inspect(table).primary_key]
    statement = statement.on_conflict_do_update(
        index_elements=keys, set_={name: statement.excluded[name] for name in update}
    )
    session.execute(statement, [dict(row) for row in rows])
