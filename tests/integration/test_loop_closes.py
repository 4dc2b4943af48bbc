"""The loop closes: from a rating in a real Kafka to a promoted version that serves, on a real PostgreSQL."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from daemon.audit import log as audit
from feedback import db, store
from tests.daemon.test_service import World

SOURCE = """[[sources]]
kind = "kafka"
servers = ["{bootstrap}"]
topics = ["loop"]
group = "loop"
"""


class KafkaWorld(World):
    """A small product that sends its feedback to a topic."""

    patience = None

    def __init__(self, folder: Path, bootstrap: str, database: str) -> None:
        self.producer = KafkaProducer(bootstrap_servers=bootstrap)
        source = SOURCE.replace("{bootstrap}", bootstrap)
        super().__init__(folder, now=time.time(), database=database, source=source)

    def send(self, lines: list[str]) -> None:
        for line in lines:
            self.producer.send("loop", line.encode())
        self.producer.flush()

    def settle_all(self, seconds: float = 90.0) -> None:
        """Ingest until the topic is read, then until nothing happens."""
        until = time.monotonic() + seconds
        while db.read(self.service.engine, lambda s: store.counters(s, "bot"))["stored"] < self.said:
            assert time.monotonic() < until, "the topic was never read to its end"
            self.service.ingest_once()
        self.settle()


@pytest.fixture
def world(tmp_path: Path, kafka: str, postgres: str) -> Iterator[KafkaWorld]:
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.create_topics([NewTopic("loop", 3, 1), NewTopic("loop.dlq", 1, 1)])
    admin.close()
    made = KafkaWorld(tmp_path, kafka, postgres)
    made.import_goldens()
    yield made
    made.service.stop()
    made.producer.close()


@pytest.mark.kafka
@pytest.mark.postgres
@pytest.mark.slow
def test_ratings_in_kafka_become_a_promoted_version_and_a_bad_record_comes_back(world: KafkaWorld, kafka: str) -> None:
    adopted = world.slot().champion
    world.corrections(80)
    world.send([json.dumps({"id": "bad", "deployment": "bot", "time": "yesterday"})])
    world.settle_all()
    slot = world.slot()
    assert slot.phase == "watching", (slot.reason, [cycle.outcome_reason for cycle in world.cycles()])
    assert slot.champion != adopted
    assert world.serves() == slot.champion
    assert db.read(world.service.engine, audit.verify).ok
    consumer = KafkaConsumer(
        "loop.dlq", bootstrap_servers=kafka, auto_offset_reset="earliest", consumer_timeout_ms=15000
    )
    letter = next(iter(consumer))
    consumer.close()
    assert json.loads(letter.value)["id"] == "bad"
    assert dict(letter.headers)["field"] == b"time"
    assert dict(letter.headers)["topic"] == b"loop"
