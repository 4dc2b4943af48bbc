"""The sources of the service: each with its reader and its thread.

Owns: which class reads a kind of source, and the threads. Refuses to know records and positions (`feedback.ingest`).
Called by `daemon.service`; the demo and `--until-idle` step it by hand instead of starting threads.
"""

import threading
from importlib import import_module

import structlog
from sqlalchemy import Engine

from daemon.clock import Clock
from daemon.config import Settings
from daemon.keys import record_settings
from daemon.lease import process_name
from daemon.logs import Waiting
from feedback.ingest import Ingest
from feedback.outbox import KafkaPublisher, Outbox
from feedback.positions import Positions
from feedback.sources import Source
from policies.errors import Misconfigured, Transient

logger = structlog.get_logger()
OUTBOX_SECONDS = 1.0
READERS = {"files": "FilesSource", "kafka": "KafkaSource"}


class Intake:
    """Every configured source with its `Ingest`; opened at the first step, so that a reader of status opens none."""

    def __init__(self, engine: Engine, settings: Settings, clock: Clock) -> None:
        self._engine, self._settings, self._clock = engine, settings, clock
        self._sources: list[Source] = []
        self._readers: list[Ingest] = []
        self._publishers: list[KafkaPublisher] = []
        self._boxes: list[Outbox] = []

    def step(self, wait_seconds: float | None = None) -> int:
        """Read one batch of every source and publish waiting dead letters; the number of messages read.

        `wait_seconds`: how long each source may wait for a first message (`feedback.ingest`).
        Raises: Transient where database or broker are away.
        """
        read = sum(reader.step(wait_seconds).read for reader in self._open())
        for box in self._boxes:
            box.step()
        return read

    def threads(self, stop: threading.Event) -> list[threading.Thread]:
        """A thread for each source, not started; they end when `stop` is set."""
        named = zip(self._settings.sources, self._open(), strict=True)
        made = [
            threading.Thread(target=reader.run, args=(stop,), name=f"intake-{each.kind}", daemon=True)
            for each, reader in named
        ]
        work = [threading.Thread(target=_publish, args=(box, stop), name="outbox", daemon=True) for box in self._boxes]
        return made + work

    @property
    def trouble(self) -> str:
        """What the sources wait for, "" when all is well."""
        return "; ".join(reader.trouble for reader in self._readers if reader.trouble)

    def reload(self, settings: Settings) -> None:
        """Take over known deployments, consent defaults and keys; sources themselves change at a restart."""
        self._settings = settings
        for reader in self._readers:
            reader.use(record_settings(settings))

    def close(self) -> None:
        """Leave every source cleanly."""
        for source in self._sources:
            source.close()
        for publisher in self._publishers:
            publisher.close()

    def _open(self) -> list[Ingest]:
        if len(self._readers) < len(self._settings.sources):
            rules = record_settings(self._settings)
            positions = Positions(self._engine, process_name(), self._clock.now)
            for each in self._settings.sources:
                if each.kind not in READERS:
                    raise Misconfigured(f"there is no source {each.kind!r}", hint=f"one of {', '.join(READERS)}")
                reader = getattr(import_module(f"feedback.sources.{each.kind}"), READERS[each.kind])
                source: Source = reader(each.options, positions)
                self._sources.append(source)
                self._readers.append(Ingest(self._engine, source, rules, self._clock.now))
                if each.kind == "kafka":
                    publisher = KafkaPublisher(each.options.servers, each.options.security)
                    self._publishers.append(publisher)
                    self._boxes.append(Outbox(self._engine, publisher, each.options.topics, self._clock.now))
        return self._readers


def _publish(box: Outbox, stop: threading.Event) -> None:
    """Send dead letters on until `stop`; while the broker is away they stay in the outbox."""
    waiting = Waiting(logger, "dead letters wait")
    while not stop.wait(OUTBOX_SECONDS):
        try:
            while box.step():
                pass
            waiting.told(None)
        except Transient as error:
            waiting.told(error)
