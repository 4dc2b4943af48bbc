"""Apache Kafka as a source, on kafka-python: offsets live in our store, Kafka's own are told for monitoring only.

Owns: the consumer's life (built, paused, rebuilt after an error, left cleanly) and what is done where an offset is gone.
Refuses to know records and tables. Called by `feedback.ingest`, in one thread; the client has an I/O thread of its own,
on which partitions are claimed.

A topic is its id (KIP-516, Kafka 2.8 and newer; "" on older brokers): deleted and made again, it starts anew, with a gap.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import KafkaConfigurationError, KafkaError, OffsetOutOfRangeError
from kafka.net.compat import KafkaNetClient
from kafka.structs import OffsetAndMetadata

from feedback.positions import UNKNOWN, Claim, Positions
from feedback.sources import Position, Raw
from policies.errors import Misconfigured, Transient

log = structlog.get_logger()

SECURITY = ("security_protocol", "ssl_", "sasl_")
LEAVE_MS = 5000


@dataclass(frozen=True, slots=True)
class Options:
    """`servers` as host:port, `topics` to read, the consumer `group` that several daemons share.

    `security`: kafka-python's own settings that begin with `security_protocol`, `ssl_` or `sasl_`.
    `session_seconds`: a member that is silent for longer loses its partitions; `poll_seconds`: one that doesn't poll.
    `connect_seconds`: how long a broker may take to answer before it counts as away.
    """

    servers: tuple[str, ...]
    topics: tuple[str, ...]
    group: str = "learnd"
    security: Mapping[str, Any] = field(default_factory=dict)
    session_seconds: float = 45.0
    poll_seconds: float = 300.0
    connect_seconds: float = 10.0


class KafkaSource:
    """A consumer group's member as a source (see `feedback.sources.Source`). Raises: Misconfigured for bad options."""

    def __init__(self, options: Options, positions: Positions) -> None:
        wrong = [name for name in options.security if not name.startswith(SECURITY)]
        if wrong or not options.servers or not options.topics:
            what = f"security has {', '.join(wrong)}" if wrong else "servers or topics are empty"
            hint = f"name servers and topics; security takes settings that begin with {', '.join(SECURITY)}"
            raise Misconfigured(f"source kafka: {what}", hint=hint)
        self._options = options
        self._positions = positions
        self._consumer: KafkaConsumer | None = None
        self._claims: dict[TopicPartition, tuple[str, str, Claim]] = {}  # cluster, topic id, claim
        self._broken: Transient | None = None  # what went wrong on the I/O thread
        self._held: list[Raw] = []  # given by the client although paused
        self._paused = False

    def poll(self, max_records: int, timeout_seconds: float) -> list[Raw]:
        """Up to `max_records` further messages; builds the consumer where there is none.

        Raises: Transient where the broker is away or positions can't be read (the next call builds anew).
        """
        if self._held and not self._paused:
            given, self._held = self._held[:max_records], self._held[max_records:]
            return given
        try:
            consumer = self._consumer or self._build()
            self._check_topics(consumer)
            if self._paused:
                consumer.pause(*consumer.assignment())
            polled = consumer.poll(timeout_ms=int(timeout_seconds * 1000), max_records=max_records)
            if self._broken is not None:
                raise self._broken
        except OffsetOutOfRangeError as error:
            self._gone(error.args[0])
            return []
        except (KafkaError, OSError, Transient) as error:
            # The client's state is unknown after an error: only a new one is known to be good.
            self._drop()
            if isinstance(error, Transient):
                raise
            hint = "is it running, and do servers, topics and security name it right? learnd goes on when it answers"
            raise Transient(f"Kafka is away: {error or type(error).__name__}", hint=hint) from error
        raws = [self._raw(tp, message) for tp, messages in polled.items() if tp in self._claims for message in messages]
        if self._paused:
            self._held += raws
            return []
        return raws

    def committed(self, positions: Sequence[Position]) -> None:
        """Tell Kafka, so that its tools show the lag; nothing is ever read back from there."""
        if self._consumer is None:
            return
        ours = {
            TopicPartition(each.source, each.partition): OffsetAndMetadata(each.next, "", -1)
            for each in positions
            if self._is_mine(each)
        }
        if ours:
            self._consumer.commit_async(ours, callback=lambda _offsets, _answer: None)

    def fenced(self, positions: Sequence[Position]) -> None:
        """Where another member claimed what this one still thinks its own: join anew, and let the group decide."""
        if any(self._is_mine(each) for each in positions):
            self._drop()

    def pause(self) -> None:
        """Give nothing; polling goes on, and so does the membership."""
        self._paused = True

    def resume(self) -> None:
        """Go on where the pause began."""
        self._paused = False
        if self._consumer is not None:
            self._consumer.resume(*self._consumer.paused())

    def close(self) -> None:
        """Leave the group at once, so that others need not wait for the session to end."""
        self._drop()

    def _build(self) -> KafkaConsumer:
        options, clients = self._options, []

        def client(**settings: Any) -> KafkaNetClient:
            clients.append(KafkaNetClient(**settings))
            return clients[-1]

        try:
            consumer = KafkaConsumer(
                bootstrap_servers=list(options.servers),
                group_id=options.group,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                metadata_max_age_ms=30_000,
                session_timeout_ms=int(options.session_seconds * 1000),
                heartbeat_interval_ms=int(options.session_seconds * 1000 / 10),
                max_poll_interval_ms=int(options.poll_seconds * 1000),
                bootstrap_timeout_ms=int(options.connect_seconds * 1000),
                kafka_client=client,
                **options.security,
            )
        except KafkaConfigurationError as error:
            raise Misconfigured(f"source kafka: {error}", hint="see the options of feedback.sources.kafka") from error
        except KafkaError:
            for half_built in clients:  # the constructor leaves its thread running when no broker answers
                half_built.close()
            raise
        self._broken = None
        consumer.subscribe(options.topics, listener=_Listener(self, consumer))
        self._consumer = consumer
        return consumer

    def assigned(self, consumer: KafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        """Claim the partitions and go on where the store says (on the client's I/O thread)."""
        try:
            for tp in partitions:
                # kafka-python 3.0 shows neither id in public: a broker that tells none leaves them empty.
                cluster = str(consumer._cluster.cluster_id or "")
                topic_id = str(consumer._cluster.topic_id(tp.topic) or "")
                claim = self._positions.claim(cluster, tp.topic, topic_id, tp.partition)
                self._claims[tp] = (cluster, topic_id, claim)
                if claim.next is None:
                    consumer.seek_to_beginning(tp)
                else:
                    consumer.seek(tp, claim.next)
        except Transient as error:
            self._broken = error

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget the claims; what was read under them and isn't stored yet will be fenced off by the next owner's."""
        for tp in partitions:
            self._claims.pop(tp, None)

    def _check_topics(self, consumer: KafkaConsumer) -> None:
        """A topic that was deleted and made again must not be read on at the old one's offset."""
        for tp, (_, topic_id, _) in list(self._claims.items()):
            found = consumer._cluster.topic_id(tp.topic)
            if found is not None and str(found) != topic_id:
                log.warning("a topic was made anew", topic=tp.topic, before=topic_id, now=str(found))
                raise Transient(f"topic {tp.topic} was made anew", hint="its partitions are claimed again")

    def _gone(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Keep the gap and set the stored position behind it; the new consumer then begins there."""
        consumer = self._consumer
        try:
            for tp, offset in offsets.items():
                if consumer is None or tp not in self._claims:
                    continue
                cluster, topic_id, _ = self._claims[tp]
                first, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
                where = (cluster, tp.topic, topic_id, tp.partition)
                if offset < first:
                    self._positions.gap(*where, last=first - 1, resume=first)
                elif offset > end:  # the log was cut: what follows gets numbers that were read once already
                    self._positions.gap(*where, first=end, last=UNKNOWN, resume=end)
        except KafkaError as error:
            raise Transient(f"Kafka is away: {error}", hint="the gap is looked at again") from error
        finally:
            self._drop()

    def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._claims.clear()
        self._held.clear()
        self._broken = None
        if consumer is not None:
            try:
                consumer.close(autocommit=False, timeout_ms=LEAVE_MS)
            except KafkaError as error:
                # The group notices by itself after session_seconds; nothing is lost by it.
                log.warning("could not leave the group", reason=str(error))

    def _is_mine(self, position: Position) -> bool:
        cluster, topic_id, claim = self._claims.get(
            TopicPartition(position.source, position.partition), ("", "", Claim(None, UNKNOWN))
        )
        known = (cluster, topic_id, claim.generation)
        return known == (position.cluster, position.topic_id, position.generation)

    def _raw(self, tp: TopicPartition, message: Any) -> Raw:
        cluster, topic_id, claim = self._claims[tp]
        return Raw(
            value=message.value or b"",
            headers=tuple((name, value or b"") for name, value in message.headers or ()),
            source=tp.topic,
            topic_id=topic_id,
            cluster=cluster,
            partition=tp.partition,
            offset=message.offset,
            next=message.offset + 1,
            generation=claim.generation,
        )


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    def __init__(self, source: KafkaSource, consumer: KafkaConsumer) -> None:
        self._source = source
        self._consumer = consumer

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._source.revoked(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._source.assigned(self._consumer, assigned)
