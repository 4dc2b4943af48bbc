"""Statements that SQLite and PostgreSQL share but SQLAlchemy spells by dialect: insert-or-ignore and upsert.

Owns: the dialects' difference. Refuses to know any table. Called by `feedback.store`, `feedback.ingest`,
`feedback.sketch`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Table, bindparam, column, func, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from feedback.db import Base


def insert(session: Session, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """An INSERT of the session's dialect, which knows ON CONFLICT."""
    target = cast(Table, table.__table__)
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(target)
    return postgresql.insert(target)


def add_rows(
    session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]], *, returning: Sequence[Any] = ()
) -> list[Any]:
    """Insert the rows, leaving out those whose unique key is taken; gives back `returning` of those that went in.

    PostgreSQL gets them as one JSON parameter: 25,000 parameters of a thousand rows took ten times as long.
    """
    statement = insert(session, table)
    names = list(rows[0])
    if session.get_bind().dialect.name == "postgresql":
        target = cast(Table, table.__table__)
        given = func.jsonb_to_recordset(bindparam("rows", [dict(row) for row in rows], type_=postgresql.JSONB))
        fields = given.table_valued(*(column(name, target.c[name].type) for name in names))
        source = fields.render_derived(name="given", with_types=True)
        statement = statement.from_select(names, select(*(source.c[name] for name in names)))
        done = session.execute(statement.on_conflict_do_nothing().returning(*returning))
        return list(done) if returning else []
    done = session.execute(statement.on_conflict_do_nothing().returning(*returning), [dict(row) for row in rows])
    return list(done) if returning else []


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
