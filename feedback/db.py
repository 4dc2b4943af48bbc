"""The database: engine, transaction, the common Base. SQLite (WAL, full sync) and PostgreSQL by one model.

Owns: how a connection is opened and how a transaction is retried. Refuses to know any table. Called by `feedback` and
`daemon`; nobody else opens a connection.
"""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from sqlalchemy import JSON, BigInteger, Engine, Integer, create_engine, event, make_url
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from policies.errors import Misconfigured, Transient

# SQLite only gives an autoincrementing rowid to INTEGER; PostgreSQL needs BIGINT for a sequence of records.
BigInt = BigInteger().with_variant(Integer, "sqlite")
Json = JSON().with_variant(JSONB, "postgresql")

T = TypeVar("T")

RETRIED_STATES = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected


class Base(DeclarativeBase):
    """Common base of every table of `feedback` and `daemon`."""

    type_annotation_map: ClassVar = {dict[str, Any]: Json, list[Any]: Json}


def connect(url: str) -> Engine:
    """An engine for `sqlite:///PATH` or `postgresql://…` (psycopg 3).

    Raises: Misconfigured where the URL names another database.
    """
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": 30, "check_same_thread": False}, hide_parameters=True)
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return create_engine(parsed, pool_pre_ping=True, isolation_level="SERIALIZABLE", hide_parameters=True)
    raise Misconfigured(
        f"database {backend!r} is not supported", hint="use sqlite:///PATH or postgresql://USER@HOST/NAME"
    )


def transact(engine: Engine, work: Callable[[Session], T], *, attempts: int = 8) -> T:
    """Run `work` in one serializable transaction and commit it; on a serialization failure run it again.

    `work` must have no effect outside the session, since it may run several times.
    Raises: Transient where the database is away or stays contended.
    """
    try:
        for attempt in Retrying(
            retry=retry_if_exception(_contended),
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=0.01, max=1.0),
            reraise=True,
        ):
            with attempt, Session(engine, expire_on_commit=False) as session, session.begin():
                return work(session)
    except OperationalError as error:
        raise Transient(f"the database is away: {error.orig}", hint="learnd goes on when it is back") from error
    raise AssertionError("unreachable: Retrying returns or raises")


def read(engine: Engine, work: Callable[[Session], T]) -> T:
    """Run `work` on one consistent view without taking SQLite's write lock, so that readers never hold up ingest.

    Raises: Transient where the database is away.
    """
    try:
        with Session(engine.execution_options(learnd_reads=True), expire_on_commit=False) as session, session.begin():
            return work(session)
    except OperationalError as error:
        raise Transient(f"the database is away: {error.orig}", hint="is the database server running?") from error


def _contended(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and (
        getattr(error.orig, "sqlstate", None) in RETRIED_STATES or "database is locked" in str(error.orig)
    )


def _sqlite_connect(connection: Any, _record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver's own BEGIN is deferred; ours (below) is immediate
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Any) -> None:
    reads = connection.get_execution_options().get("learnd_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
