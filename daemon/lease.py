"""The lease: of all daemons on one database one leads, and its fencing token is higher than any leader's before it.

Owns: who leads, by the database's clock, and the token that every effect on a target carries. Refuses to know what the
leader does. Called by `daemon.service`; a second daemon waits in `acquire` as a hot standby.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from daemon.tables import Lease
from feedback.db import read, transact
from feedback.statements import insert
from policies.errors import Transient

logger = structlog.get_logger()

NAME = "learnd"
CLOCKS = {
    # julianday is exact to the millisecond on every SQLite; clock_timestamp moves on within a transaction.
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())::float8",
}


class Leadership:
    """One daemon's part in the lease. `seconds` is how long a leader that fell silent keeps the others waiting.

    `now` (any clock, seconds) measures here, between two renewals, how much of the lease is left: it is counted from
    before the database was asked, so that this side always gives up first.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        now: Callable[[], float] = time.monotonic,
        seconds: float = 30.0,
        holder: str = "",
        name: str = NAME,
    ) -> None:
        self.holder = holder or process_name()
        self._engine, self._now, self._seconds, self._name = engine, now, seconds, name
        self._token = 0
        self._until = 0.0

    def try_acquire(self) -> bool:
        """Take the lease if it is free, ran out, is ours, or its holder is a process of this machine that is gone.

        Raises: Transient where the database is away.
        """
        asked = self._now()
        token = transact(self._engine, self._take)
        if token:
            self._token, self._until = token, asked + self._seconds
        return token > 0

    def acquire(self, stop: threading.Event | None = None, *, poll_seconds: float = 1.0) -> bool:
        """Wait until this daemon leads; false when `stop` was set before that.

        Raises: Transient where the database is away.
        """
        stop = stop or threading.Event()
        waiting = False
        while not self.try_acquire():
            if not waiting:
                logger.info("standby: another learnd leads on this database", holder=self.current()[0])
                waiting = True
            if stop.wait(poll_seconds):
                return False
        if waiting:
            logger.info("this learnd leads now", token=self._token)
        return True

    def renew(self) -> None:
        """Hold on to the lease; writes only when a third of it has gone by, so that a tick costs nothing.

        A lease that was lost is taken again if it can be, with a new token.
        Raises: Transient where the database is away or another daemon leads now.
        """
        if self._token and self._seconds * 2 / 3 < self._until - self._now() <= self._seconds:
            return
        if not self.try_acquire():
            self._token = 0
            raise Transient(
                f"another learnd leads now: {self.current()[0]}", hint="this one stays as standby and takes over"
            )

    def token(self) -> int:
        """The fencing token, which rises with every new holder.

        Raises: Transient where this daemon doesn't lead, or hasn't renewed in time: another one may lead by now.
        """
        if not self._token or self._now() >= self._until:
            raise Transient("this learnd does not hold the lease", hint="it is renewed with the next tick")
        return self._token

    def release(self) -> None:
        """Give the lease back, so that a standby needs not wait. Raises: Transient where the database is away."""
        token, self._token = self._token, 0
        if token:
            transact(self._engine, lambda session: self._give(session, token))

    def current(self) -> tuple[str, int]:
        """Holder and token as the database has them ("" and 0 while nobody ever led)."""

        def look(session: Session) -> tuple[str, int]:
            row = session.get(Lease, self._name)
            return (row.holder, row.token) if row else ("", 0)

        return read(self._engine, look)

    def _take(self, session: Session) -> int:
        """The token (0: another one leads)."""
        free = insert(session, Lease).values(name=self._name, holder="", token=0, until=0.0)
        session.execute(free.on_conflict_do_nothing())
        row = session.scalars(select(Lease).where(Lease.name == self._name).with_for_update()).one()
        now = float(session.scalar(text(CLOCKS[session.get_bind().dialect.name])) or 0.0)
        ours = row.holder == self.holder and row.token == self._token
        if not ours:
            if row.holder and row.until > now and not is_gone(row.holder):
                return 0
            row.holder, row.token = self.holder, row.token + 1
        row.until = now + self._seconds
        return row.token

    def _give(self, session: Session, token: int) -> None:
        row = session.get(Lease, self._name)
        if row is not None and (row.holder, row.token) == (self.holder, token):
            row.holder, row.until = "", 0.0


def process_name() -> str:
    """host/boot/pid-namespace/pid/start: a name that no other process ever has, and that tells whether it still lives."""
    return "/".join((*_place(), str(os.getpid()), _started(os.getpid()), secrets.token_hex(4)))


def is_gone(holder: str) -> bool:
    """Whether `holder` is a process of this machine and boot that has ended: its lease needs not run out."""
    *place, pid, started, _ = holder.split("/") if holder.count("/") == 5 else ("", "", "", "")
    return tuple(place) == _place() and pid.isdigit() and _started(int(pid)) != started


def _place() -> tuple[str, ...]:
    """Host, boot and pid namespace: within them a pid with its start time is one process. Unknown on other systems."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        space = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        return (socket.gethostname().replace("/", "-"), secrets.token_hex(4), "")
    return (socket.gethostname().replace("/", "-"), boot, space)


def _started(pid: int) -> str:
    """Clock ticks from boot to the start of the process ("" when there is none, or it is a zombie)."""
    try:
        # The second field is the command in brackets and may hold anything: what follows the last bracket counts.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
