"""Kafka as a source against a real broker: gaps, groups, outages of broker and database, topics made anew."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from sqlalchemy import Engine, func, select

from feedback import db
from feedback.ingest import Ingest
from feedback.positions import Positions
from feedback.sources.kafka import KafkaSource, Options
from feedback.tables import Base, Gap, Offset, Record
from policies.errors import Misconfigured, Transient
from tests.feedback.support import NOW, SETTINGS, wire
from tests.servers import free_port
from tests.servers.kafka import Broker
from tests.servers.postgres import Server

pytestmark = pytest.mark.kafka

Start = Callable[..., tuple[Ingest, KafkaSource]]


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Engine]:
    """A SQLite database: what is tested here is Kafka."""
    engine = db.connect(f"sqlite:///{tmp_path}/learnd.db")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def start(broker: Broker) -> Iterator[Start]:
    """A consumer of a topic with its ingest; all are closed in the end."""
    with contextlib.ExitStack() as stack:

        def build(engine: Engine, topic: str, session_seconds: float = 45.0) -> tuple[Ingest, KafkaSource]:
            options = Options(
                (broker.bootstrap,), (topic,), f"g-{topic}", connect_seconds=2.0, session_seconds=session_seconds
            )
            source = KafkaSource(options, Positions(engine, "test", lambda: NOW))
            stack.callback(source.close)
            return Ingest(engine, source, SETTINGS, lambda: NOW), source

        yield build


def send(broker: Broker, topic: str, numbers: range) -> None:
    with contextlib.closing(KafkaProducer(bootstrap_servers=broker.bootstrap)) as producer:
        for number in numbers:
            producer.send(topic, value=wire(id=f"r-{number}"), key=str(number).encode())
        producer.flush()


def count(engine: Engine) -> int:
    return db.read(engine, lambda session: session.scalar(select(func.count()).select_from(Record)) or 0)


def until(done: Callable[[], bool], *step: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        for each in step:
            each()
        if not step:
            time.sleep(0.05)


def test_a_restarted_consumer_goes_on_where_the_store_says(broker: Broker, start: Start, lite: Engine) -> None:
    topic = broker.topic("restarts", partitions=2)
    send(broker, topic, range(10))
    ingest, source = start(lite, topic)
    until(lambda: count(lite) == 10, ingest.step)
    source.close()
    send(broker, topic, range(10, 15))
    again, _ = start(lite, topic)
    until(lambda: count(lite) == 15, again.step)
    assert again.total.read == 5
    with lite.connect() as connection:
        for cluster, topic_id in connection.execute(select(Offset.cluster, Offset.topic_id)):
            assert cluster
            assert topic_id


def test_offsets_that_are_gone_are_a_gap_and_never_a_silent_reset(broker: Broker, start: Start, lite: Engine) -> None:
    topic = broker.topic("gaps")
    send(broker, topic, range(4))
    ingest, source = start(lite, topic)
    until(lambda: count(lite) == 4, ingest.step)
    source.close()
    send(broker, topic, range(4, 12))
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.delete_records({TopicPartition(topic, 0): 9})
    again, _ = start(lite, topic)
    until(lambda: count(lite) == 7, again.step)
    with lite.connect() as connection:
        assert connection.execute(select(Gap.source, Gap.partition, Gap.first, Gap.last)).all() == [(topic, 0, 4, 8)]


def test_a_topic_made_anew_is_read_from_its_start_with_a_gap(broker: Broker, start: Start, lite: Engine) -> None:
    topic = broker.topic("anew")
    send(broker, topic, range(5))
    ingest, source = start(lite, topic)
    until(lambda: count(lite) == 5, ingest.step)
    source.close()
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.delete_topics([topic])
        until(lambda: topic not in admin.list_topics())
    broker.topic(topic)
    send(broker, topic, range(100, 103))
    again, _ = start(lite, topic)
    until(lambda: count(lite) == 8, again.step)
    with lite.connect() as connection:
        assert connection.execute(select(Gap.first, Gap.last)).all() == [(5, -1)]


def test_two_members_share_the_work_and_one_that_leaves_hands_over_at_once(
    broker: Broker, start: Start, lite: Engine
) -> None:
    topic = broker.topic("shared", partitions=4)
    stops = [threading.Event(), threading.Event()]
    members = [start(lite, topic), start(lite, topic)]
    threads = [
        threading.Thread(target=ingest.run, args=(stop,)) for (ingest, _), stop in zip(members, stops, strict=True)
    ]
    for thread in threads:
        thread.start()
    sent = 0

    def feed() -> None:
        nonlocal sent
        send(broker, topic, range(sent, sent + 40))
        sent += 40
        time.sleep(0.2)

    try:
        until(lambda: all(ingest.total.stored for ingest, _ in members), feed)
        stops[0].set()
        threads[0].join()
        members[0][1].close()
        left = time.monotonic()
        send(broker, topic, range(sent, sent + 40))
        until(lambda: count(lite) == sent + 40)
        assert time.monotonic() - left < 30  # the session would have lasted 45 seconds
    finally:
        for stop in stops:
            stop.set()
        for thread in threads:
            thread.join()
    assert count(lite) == sent + 40


@pytest.mark.slow
def test_a_broker_that_goes_and_comes_back_is_waited_for(broker: Broker, start: Start, lite: Engine) -> None:
    topic = broker.topic("outage")
    send(broker, topic, range(3))
    ingest, _ = start(lite, topic, 2.0)  # its own old membership has to end before it is let in again
    stop = threading.Event()
    thread = threading.Thread(target=ingest.run, args=(stop,))
    thread.start()
    try:
        until(lambda: count(lite) == 3)
        broker.stop()
        broker.start()
        send(broker, topic, range(3, 6))
        until(lambda: count(lite) == 6)
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.postgres
def test_while_the_database_is_away_the_consumer_stays_a_member_and_loses_nothing(
    broker: Broker, start: Start, postgres_server: Server, postgres: str
) -> None:
    engine = db.connect(postgres)
    Base.metadata.create_all(engine)
    topic = broker.topic("away")
    send(broker, topic, range(3))
    ingest, source = start(engine, topic)
    stop = threading.Event()
    thread = threading.Thread(target=ingest.run, args=(stop,))
    thread.start()
    try:
        until(lambda: count(engine) == 3)
        consumer = source._consumer
        postgres_server.stop()
        send(broker, topic, range(3, 6))
        until(lambda: "database" in ingest.trouble)
        postgres_server.start()
        until(lambda: count(engine) == 6)
        until(lambda: ingest.trouble == "")
        assert source._consumer is consumer
    finally:
        stop.set()
        thread.join()
        engine.dispose()


def test_no_broker_is_a_reason_to_wait_not_to_fail(lite: Engine) -> None:
    options = Options((f"127.0.0.1:{free_port()}",), ("t",), connect_seconds=0.5)
    source = KafkaSource(options, Positions(lite, "test", lambda: NOW))
    threads = threading.active_count()
    for _ in range(2):
        with pytest.raises(Transient, match="Kafka is away"):
            source.poll(10, 0.1)
    assert threading.active_count() == threads


def test_options_that_are_no_security_settings_are_refused(lite: Engine) -> None:
    positions = Positions(lite, "test", lambda: NOW)
    with pytest.raises(Misconfigured, match="group_id"):
        KafkaSource(Options(("a:1",), ("t",), security={"group_id": "x"}), positions)
    with pytest.raises(Misconfigured, match="empty"):
        KafkaSource(Options((), ("t",)), positions)
