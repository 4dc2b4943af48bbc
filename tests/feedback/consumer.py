"""A consumer as a process of its own, to be killed: `python -m tests.feedback.consumer URL SERVERS TOPIC`."""

import signal
import sys
import threading
import time

from feedback import db
from feedback.ingest import Ingest
from feedback.positions import Positions
from feedback.sources.kafka import KafkaSource, Options
from tests.feedback.support import SETTINGS


def main(url: str, servers: str, topic: str) -> None:
    """Ingest until SIGTERM, then leave the group."""
    engine = db.connect(url)
    options = Options(servers=(servers,), topics=(topic,), group=f"g-{topic}", session_seconds=2.0, poll_seconds=10.0)
    source = KafkaSource(options, Positions(engine, "consumer", time.time))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Ingest(engine, source, SETTINGS, time.time, batch=500).run(stop)
    source.close()
    engine.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])
