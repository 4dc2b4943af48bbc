"""The migrated schema is the models' schema on both databases, and an audit entry can't be changed on either."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

import daemon.tables
import feedback.tables  # noqa: F401
from daemon import schema
from feedback.db import Base, connect
from policies.errors import Misconfigured


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/learnd.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = connect(url)
    yield made
    made.dispose()


def entry(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(daemon.tables.AuditRow.__table__.insert().values(index=0, entry=b"{}", leaf="a", root="b"))


def test_the_migrated_schema_is_the_schema_of_the_models(engine: Engine) -> None:
    schema.migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    assert schema.migrate(engine) == schema.migrate(engine) == schema.head()
    schema.check(engine)


def test_of_several_daemons_that_migrate_at_once_all_find_it_done(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: schema.migrate(engine), range(4))) == {schema.head()}
    schema.check(engine)


def test_an_empty_database_is_refused_until_it_is_migrated(engine: Engine) -> None:
    with pytest.raises(Misconfigured, match="empty") as refused:
        schema.check(engine)
    assert "start learnd" in refused.value.hint


def test_a_newer_database_is_refused_and_left_alone(engine: Engine) -> None:
    schema.migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refusing in (schema.migrate, schema.check):
        with pytest.raises(Misconfigured, match="9999 is newer"):
            refusing(engine)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


def test_an_interrupted_migration_leaves_nothing_behind(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE settings (name TEXT)"))  # the last table of the step is in the way
    with pytest.raises(Misconfigured, match="settings"):
        schema.migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE settings"))
    schema.migrate(engine)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET root = 'forged'",
        "DELETE FROM audit",
        "INSERT INTO audit SELECT * FROM audit",
    ],
)
def test_an_audit_entry_is_neither_changed_nor_removed_nor_replaced(engine: Engine, statement: str) -> None:
    schema.migrate(engine)
    entry(engine)
    with pytest.raises(DBAPIError, match=r"append-only|duplicate key"), engine.begin() as connection:
        connection.execute(text(statement))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT root FROM audit")) == "b"


def test_the_ways_around_the_triggers_are_closed_too(engine: Engine) -> None:
    schema.migrate(engine)
    entry(engine)
    way = {
        "sqlite": "INSERT OR REPLACE INTO audit SELECT * FROM audit",
        "postgresql": "TRUNCATE audit",
    }[engine.dialect.name]
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(way))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT root FROM audit")) == "b"
