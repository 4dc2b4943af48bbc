"""Time: the one reader of the system's clock, and what is due by the calendar.

APScheduler computes the fire times and wakes the loop; the table `due` is the truth, unique on (name, due time), so that
a restart neither drops nor doubles one. Owns: now, sleeping, cron lines. Refuses to know what is done when something is
due. Called by `daemon.service` (wiring) and `daemon.loop`.
"""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon.tables import Due
from policies.errors import Misconfigured


class Clock(Protocol):
    """Where time comes from: the system, or a test's hand."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Sleep until `event` is set or `seconds` have passed; true when it was set."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Unix seconds of the system's wall clock."""
        return time.time()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block the calling thread."""
        return event.wait(seconds)


def cron(line: str) -> CronTrigger:
    """A five-field cron line, in UTC.

    Raises: Misconfigured where the line can't be read.
    """
    try:
        return CronTrigger.from_crontab(line, timezone="UTC")
    except ValueError as error:
        raise Misconfigured(
            f"schedule {line!r} is no cron line: {error}", hint='five fields in UTC, as "0 2 * * *" for 02:00 every day'
        ) from error


def next_fire(line: str, after: float) -> float:
    """The first fire time of `line` strictly after `after`, both unix seconds; infinity where it never fires."""
    start = datetime.fromtimestamp(after + 0.001, UTC)
    fires = cron(line).get_next_fire_time(None, start)
    return fires.timestamp() if fires else float("inf")


def falls_due(session: Session, name: str, line: str, now: float) -> bool:
    """Note what fell due since the last look; true while something due is not done yet.

    Several missed times are one (coalesced). The first call only starts the count: nothing was missed before it.
    """
    if not line:
        return False
    last = session.scalar(select(Due).where(Due.name == name).order_by(Due.due.desc()).limit(1))
    if last is None:
        session.add(Due(name=name, due=now, done=now))
        return False
    if last.done is None:
        return True
    if next_fire(line, last.due) > now:
        return False
    session.add(Due(name=name, due=now, done=None))
    return True


def done(session: Session, name: str, now: float) -> None:
    """Strike out what was due under `name`."""
    for row in session.scalars(select(Due).where(Due.name == name, Due.done.is_(None))):
        row.done = now


def alarm(lines: Mapping[str, str], wake: Callable[[], None]) -> BackgroundScheduler:
    """A running scheduler that calls `wake` at every fire time, so that a due job does not wait for the next tick.

    Memory job store: the truth is the table. A late wake-up is still a wake-up, hence no grace time.
    """
    scheduler = BackgroundScheduler(
        timezone="UTC", job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1}
    )
    for name, line in lines.items():
        if line:
            scheduler.add_job(wake, cron(line), id=name)
    scheduler.start()
    return scheduler
