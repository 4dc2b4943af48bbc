"""Three hundred hostile messages through a real broker: each is stored or dead-lettered with a reason, none stops it."""

import contextlib
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaProducer
from sqlalchemy import Engine, func, select

from feedback.ingest import Ingest
from feedback.positions import Positions
from feedback.sources.kafka import KafkaSource, Options
from feedback.tables import DeadLetter, Record
from tests.feedback.support import NOW, SETTINGS, valid, wire
from tests.servers.kafka import Broker

pytestmark = pytest.mark.kafka

MESSAGES = 300
WRONG: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, -1e-320, 2**63, 10**40, "", " ", "x" * 300, "1", "NaN", "null", [], [[]], {},
    {"a": {"b": {}}}, [None], "\x00", "\x1b[2J", "\x7f", "\x85", "\u202e", "\ud800", "\U0010ffff", "🤖" * 50,
    "'; DROP TABLE records; --",
    "2026-02-30T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "-2026-01-01T00:00:00Z",
]  # fmt: skip
BYTES = [
    b"", b" ", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf{}", b"{", b"}", b"[", b'"', b"null", b"true", b"NaN", b"1e999",
    b"-Infinity",
    b"{}", b"[]", b'{"a":1,"a":2}', b'{"id":"\xc3\x28"}', b'{"id":"\\ud800"}', b'{"id":"\\u0000"}', b"{'id': 1}",
    b"[" * 100_000, b'{"a":' * 50_000, b'{"x":' + b"9" * 10_000 + b"}", b'{"x":1' + b"0" * 400 + b".5}",
    b'"' + b"x" * 10_000_000 + b'"', wire(comment="x" * 900_000), wire(comment="4 " * 400_000), wire(comment="@" * 900_000),
    wire(note=json.loads("[" * 20 + "]" * 20)), b"\x1f\x8b\x08\x00" + bytes(range(256)), wire().replace(b":", b"="),
    wire().decode().encode("utf-16"), wire().decode().encode("utf-32"), wire() + wire(), wire()[:-1], wire() + b"\x00",
]  # fmt: skip


def hostile() -> Iterator[tuple[bytes, list[tuple[str, bytes]]]]:
    """Every wrong value in every field, strange bytes, strange headers: more than three hundred, shuffled with a seed."""
    for raw in BYTES:
        yield raw, []
    for field in [
        *valid(),
        "user",
        "features",
        "consent",
        "kind",
        "tenant",
        "erase",
        "sampling",
        "correction",
        "extra",
    ]:
        for number, value in enumerate(WRONG):
            yield encode(valid(id=f"{field}-{number}") | {field: value}), []
    for value in WRONG:
        yield encode(valid(id=f"f-{value!r:.90}", features={"x": value})), []
        yield encode(valid(id="é" * 60, rating={"value": value, "min": 0, "max": 1})), []
    for name in ("ce_id", "ce_specversion", "content-type", "ce_\xff", ""):
        for text in (b"", b"\xff\xfe", b"1.0", b"application/cloudevents+json", b"x" * 10_000):
            yield wire(id=f"h-{name}-{len(text)}"), [(name, text)]


def encode(record: Any) -> bytes:
    """JSON of a record, NaN, lone surrogates and all."""
    return json.dumps(record, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


def test_each_hostile_message_is_stored_or_dead_lettered_and_none_stops_the_consumer(
    broker: Broker, engine: Engine
) -> None:
    messages = list(hostile())
    random.Random(3).shuffle(messages)
    assert len(messages) >= MESSAGES
    topic = broker.topic(f"hostile-{engine.dialect.name}", **{"max.message.bytes": "20000000"})
    with contextlib.closing(KafkaProducer(bootstrap_servers=broker.bootstrap, max_request_size=20_000_000)) as producer:
        for raw, headers in messages:
            producer.send(topic, value=raw, headers=headers)
        producer.send(topic, key=b"gone", value=None)
        producer.send(topic, value=wire(id="the last one"))
        producer.flush()
    total = len(messages) + 2

    source = KafkaSource(Options((broker.bootstrap,), (topic,)), Positions(engine, "test", lambda: NOW))
    ingest = Ingest(engine, source, SETTINGS, lambda: NOW)
    deadline = time.monotonic() + 120
    while ingest.total.read < total:
        assert time.monotonic() < deadline, ingest.total
        ingest.step()
    source.close()

    with engine.connect() as connection:
        stored = set(connection.scalars(select(Record.offset).where(Record.source == topic)))
        letters = connection.execute(select(DeadLetter.offset, DeadLetter.reason, DeadLetter.message)).all()
        assert connection.scalar(select(func.count()).where(Record.id == "the last one")) == 1
    refused = {offset for offset, reason, message in letters if reason and message}
    assert not [reason for _, reason, _ in letters if reason in ("internal", "unstorable")]
    assert len(letters) == len(refused) == ingest.total.dead_letters
    assert not stored & refused
    # What is neither is a duplicate, and is counted as one.
    assert total - len(stored | refused) == ingest.total.duplicates


def test_what_is_stored_of_them_can_be_read_back(engine: Engine) -> None:
    from daemon.testing import FakeSource

    ingest = Ingest(engine, FakeSource([raw for raw, _ in hostile()]), SETTINGS, lambda: NOW)
    while ingest.step().read:
        pass
    with engine.connect() as connection:
        rows = connection.execute(select(Record.body, Record.features, Record.rating)).all()
    assert len(rows) == ingest.total.stored
    assert all(isinstance(body, dict) for body, _, _ in rows)
