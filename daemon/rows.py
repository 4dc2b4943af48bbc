"""One statement that both databases say differently: insert a row unless its key is taken.

Owns: that statement. Refuses to know any table. Called by modules whose row is also their lock.
"""

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from feedback.db import Base


def insert_if_absent(session: Session, table: type[Base], values: dict[str, Any]) -> None:
    """Insert `values` into `table` unless a row with its primary key is there.

    On PostgreSQL a row that a concurrent transaction has just inserted is a serialization failure, which
    `feedback.db.transact` answers by starting over: the caller never goes on with a row it can't see.
    """
    postgres = session.get_bind().dialect.name == "postgresql"
    insert = postgresql.insert(table).values(values) if postgres else sqlite.insert(table).values(values)
    session.execute(insert.on_conflict_do_nothing())
