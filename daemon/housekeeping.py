"""What the loop tidies between two ticks: lost offsets and erasures into the audit log, old artifacts off the disk.

Owns: the order and how often. Refuses to know how each is done. Called by `daemon.service`.
"""

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from daemon import clock, erasure, retention
from daemon.audit import gaps
from daemon.config import Settings
from daemon.registry import Registry
from feedback import db

DAILY = "30 3 * * *"


def tidy(engine: Engine, settings: Settings, registry: Registry, now: float) -> None:
    """Settle what waits; each part looks before it locks, so a quiet tick writes nothing.

    Raises: Transient where the database is away, Corrupt where the audit log doesn't hold.
    """
    gaps.audit(engine, now)
    erasure.settle(engine, settings.state / "datasets", now)

    def due(session: Session) -> bool:
        return clock.falls_due(session, "retention", DAILY, now)

    if db.transact(engine, due):
        retention.sweep(engine, registry, now)
        retention.clear(engine, settings.state / "jobs")
        db.transact(engine, lambda session: clock.done(session, "retention", now))
