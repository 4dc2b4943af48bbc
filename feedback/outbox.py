"""The outbox: dead letters that are stored already, sent on to `<topic>.dlq` with where they came from in headers.

Owns: what was published and what not yet. Refuses to know why a record was refused. Called by `daemon.service` beside
ingest. At least once: one that was sent right before a crash is sent again, with the same origin in its headers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from feedback import db
from feedback.tables import DeadLetter
from policies.errors import Transient

log = structlog.get_logger()

SUFFIX = ".dlq"
BATCH = 200
FLUSH_SECONDS = 30.0

Header = tuple[str, bytes]


class Publisher(Protocol):
    """Where letters go."""

    def send(self, letters: Sequence[tuple[str, bytes, list[Header]]]) -> None:
        """Send (topic, body, headers) of each and return once all are safe. Raises: Transient where they aren't."""
        ...

    def close(self) -> None:
        """Leave cleanly."""
        ...


class KafkaPublisher:
    """Sends to Kafka with all acknowledgements; the producer is built at the first letter, anew after an error."""

    def __init__(self, servers: Sequence[str], security: Mapping[str, Any] | None = None) -> None:
        self._servers = list(servers)
        self._security = dict(security or {})
        self._producer: KafkaProducer | None = None

    def send(self, letters: Sequence[tuple[str, bytes, list[Header]]]) -> None:
        """Send the letters. Raises: Transient where a broker is away or the topic is not there."""
        try:
            if self._producer is None:
                self._producer = KafkaProducer(
                    bootstrap_servers=self._servers,
                    acks="all",
                    bootstrap_timeout_ms=10_000,
                    request_timeout_ms=10_000,
                    max_block_ms=10_000,
                    delivery_timeout_ms=20_000,
                    **self._security,
                )
            sent = [self._producer.send(topic, value=body, headers=headers) for topic, body, headers in letters]
            self._producer.flush(timeout=FLUSH_SECONDS)
            for one in sent:
                one.get(timeout=FLUSH_SECONDS)
        except (KafkaError, OSError) as error:
            self.close()
            hint = f"is Kafka running, and are there topics named like the sources with {SUFFIX} behind?"
            raise Transient(
                f"dead letters could not be published: {error or type(error).__name__}", hint=hint
            ) from error

    def close(self) -> None:
        """Leave; letters that were not sent stay in the outbox."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=5)


class Outbox:
    """Publishes the dead letters of these topics. `now` gives unix seconds."""

    def __init__(self, engine: Engine, publisher: Publisher, topics: Sequence[str], now: Callable[[], float]) -> None:
        self._engine = engine
        self._publisher = publisher
        self._topics = list(topics)
        self._now = now

    def step(self) -> int:
        """Publish up to 200 waiting letters, oldest first; returns how many. Raises: Transient, then none is marked."""
        query = (
            select(DeadLetter)
            .where(DeadLetter.published.is_(None), DeadLetter.source.in_(self._topics))
            .order_by(DeadLetter.id)
            .limit(BATCH)
        )
        waiting = db.read(self._engine, lambda session: list(session.scalars(query)))
        if not waiting:
            return 0
        self._publisher.send([(letter.source + SUFFIX, letter.body.encode(), headers(letter)) for letter in waiting])
        sent, now = [letter.id for letter in waiting], self._now()

        def mark(session: Session) -> None:
            session.execute(update(DeadLetter).where(DeadLetter.id.in_(sent)).values(published=now))

        db.transact(self._engine, mark)
        log.info("dead letters published", letters=len(sent))
        return len(sent)


def headers(letter: DeadLetter) -> list[Header]:
    """Where a letter came from and why it was refused, as Kafka headers."""
    told = {
        "topic": letter.source,
        "partition": letter.partition,
        "offset": letter.offset,
        "reason": letter.reason,
        "field": letter.field,
        "message": letter.message,
        "deployment": letter.deployment,
    }
    return [(name, str(value).encode()) for name, value in told.items()]
