"""Fixtures that all tests share: the real servers (started once, at first use), and a database of either kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine

from feedback import db
from tests.servers import MissingError
from tests.servers.kafka import Broker, kafka
from tests.servers.postgres import Server, postgres

# How fast a machine is just now proves nothing about the code.
settings.register_profile("learnd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("learnd")


def pytest_configure(config: pytest.Config) -> None:
    """kafka-python leaves sockets that were refused to the garbage collector, which may run in anybody's test."""
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket:ResourceWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is allowed to take longest begins first: two workers then end at about the same time."""
    items.sort(key=_patience, reverse=True)


def _patience(item: pytest.Item) -> float:
    allowed = item.get_closest_marker("timeout")
    return float(allowed.args[0]) if allowed else 60.0 * (item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A real Apache Kafka broker, which a test may stop and start."""
    try:
        with kafka() as running:
            yield running
    except MissingError as missing:
        pytest.fail(str(missing), pytrace=False)


@pytest.fixture(scope="session", name="kafka")
def bootstrap(broker: Broker) -> str:
    """The bootstrap address of the real broker."""
    return broker.bootstrap


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A real PostgreSQL server, which a test may stop and start."""
    try:
        with postgres() as running:
            yield running
    except MissingError as missing:
        pytest.fail(str(missing), pytrace=False)


@pytest.fixture(name="postgres")
def fresh_database(postgres_server: Server) -> Iterator[str]:
    """The URL of a fresh, empty PostgreSQL database."""
    url = postgres_server.database()
    yield url
    postgres_server.drop(url)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh, empty database; the test runs on SQLite and on PostgreSQL."""
    return f"sqlite:///{tmp_path}/learnd.db" if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine on a fresh database of either kind that has all tables of `feedback`."""
    engine = db.connect(database)
    # The tables' module fills the metadata; migrations are the daemon's, and tested there.
    import feedback.tables  # noqa: F401

    db.Base.metadata.create_all(engine)
    yield engine
    engine.dispose()
