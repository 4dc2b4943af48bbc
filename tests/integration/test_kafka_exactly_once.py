"""Nothing lost, nothing doubled: a real broker, and a consumer that is killed (-9) again and again."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer
from sqlalchemy import Engine, func, select

from feedback import db, store
from feedback.outbox import KafkaPublisher, Outbox
from feedback.tables import DeadLetter, Gap, Record
from tests.feedback.support import wire
from tests.servers.kafka import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

TOTAL, REPEATED, BAD, KILLS = 20_000, 1_000, 200, 5
GOOD = TOTAL - REPEATED - BAD
ROOT = Path(__file__).parents[2]
BROKEN = [b"{", b"\xff", wire(rating="1"), wire(deployment="nobody"), wire(messages=...)]


@pytest.mark.timeout(280)
def test_records_are_stored_once_although_the_consumer_is_killed_five_times(broker: Broker, engine: Engine) -> None:
    topic = broker.topic(f"feedback-{engine.dialect.name}", partitions=3)
    bad = produce(broker.bootstrap, topic, messages())
    for kill in range(1, KILLS + 1):
        with consumer(engine, broker, topic) as process:
            wait(engine, lambda count, kill=kill: count >= GOOD * kill // (KILLS + 1))
            time.sleep(random.random() / 10)  # somewhere in the middle of a batch
            process.send_signal(signal.SIGKILL)
    with consumer(engine, broker, topic) as process:
        wait(engine, lambda count: count + letters(engine) + duplicates(engine) >= TOTAL)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0

    with engine.connect() as connection:
        ids = set(connection.scalars(select(Record.id)))
        assert ids == {f"r-{number}" for number in range(GOOD)}
        assert connection.scalar(select(func.count()).select_from(Record)) == GOOD
        found = connection.execute(select(DeadLetter.partition, DeadLetter.offset, DeadLetter.reason, DeadLetter.body))
        assert {(partition, offset) for partition, offset, reason, body in found if reason and body} == bad
        assert connection.scalar(select(func.count()).select_from(Gap)) == 0
    assert duplicates(engine) == REPEATED
    published(broker, engine, topic, bad)


def published(broker: Broker, engine: Engine, topic: str, bad: set[tuple[int, int]]) -> None:
    """Every dead letter arrives in the topic's `.dlq` with its origin and reason."""
    broker.topic(f"{topic}.dlq")
    publisher = KafkaPublisher([broker.bootstrap])
    outbox = Outbox(engine, publisher, [topic], time.time)
    while outbox.step():
        pass
    publisher.close()
    with contextlib.closing(
        KafkaConsumer(f"{topic}.dlq", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", group_id=None)
    ) as reader:
        origins = set()
        deadline = time.monotonic() + 20
        while len(origins) < len(bad) and time.monotonic() < deadline:
            for messages in reader.poll(timeout_ms=500).values():
                for message in messages:
                    headers = {name: value.decode() for name, value in message.headers}
                    assert headers["topic"] == topic
                    assert headers["reason"]
                    origins.add((int(headers["partition"]), int(headers["offset"])))
    assert origins == bad


def messages() -> list[bytes]:
    """All messages in the order they are sent; a repeated one somewhere behind the first."""
    randomly = random.Random(7)
    sent = [record(number) for number in range(GOOD)]
    for _ in range(REPEATED):
        number = randomly.randrange(GOOD)
        sent.insert(randomly.randrange(number, len(sent)) + 1, record(number))
    for number in range(BAD):
        sent.insert(randomly.randrange(len(sent)), BROKEN[number % len(BROKEN)])
    return sent


def record(number: int) -> bytes:
    return wire(id=f"r-{number}", prompt=f"Question {number}?", messages=..., user=f"u-{number % 50}")


def produce(servers: str, topic: str, sent: list[bytes]) -> set[tuple[int, int]]:
    """Send all; returns where the bad ones lie."""
    with contextlib.closing(KafkaProducer(bootstrap_servers=servers, linger_ms=20)) as producer:
        futures = [(value, producer.send(topic, value=value)) for value in sent]
        producer.flush()
        placed = [(value, future.get()) for value, future in futures]
    return {(at.partition, at.offset) for value, at in placed if value in BROKEN}


@contextlib.contextmanager
def consumer(engine: Engine, broker: Broker, topic: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable, "-m", "tests.feedback.consumer", engine.url.render_as_string(hide_password=False),
        broker.bootstrap, topic,
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def wait(engine: Engine, enough) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 100
    while not enough(db.read(engine, lambda session: session.scalar(select(func.count()).select_from(Record)))):
        assert time.monotonic() < deadline, json.dumps(db.read(engine, lambda session: store.counters(session, "bot")))
        time.sleep(0.05)


def letters(engine: Engine) -> int:
    query = select(func.count()).select_from(DeadLetter)
    return db.read(engine, lambda session: session.scalar(query) or 0)


def duplicates(engine: Engine) -> int:
    return db.read(engine, lambda session: store.counters(session, "bot")["duplicates"])
