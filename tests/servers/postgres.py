"""PostgreSQL in a temporary folder, as its own user where the tests run as root (it refuses to run as root).

`with postgres() as server:` gives a running server; `server.database()` a URL of a fresh database.
"""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.servers import MissingError, folder, free_port, running, wait_until

INSTALL = "On Debian, as root: apt-get install postgresql"


class Server:
    """One server: it may be stopped and started again on the same port, with what it has stored."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._folder = path
        self._bin = programs()
        self._port = free_port()
        self._user = _user()
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._options = [] if durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        if self._user:
            shutil.chown(path, self._user)
        subprocess.run(
            [f"{self._bin}/initdb", "-D", f"{path}/data", "-U", "learnd", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
            check=True, capture_output=True, user=self._user, group=self._user, extra_groups=[] if self._user else None,
            cwd=path,
        )  # fmt: skip

    def start(self) -> None:
        """Start, and wait until it answers."""
        log = self._folder / "postgres.log"
        command = [
            f"{self._bin}/postgres", "-D", f"{self._folder}/data", "-p", str(self._port), "-k", str(self._folder),
            "-c", "listen_addresses=127.0.0.1", *self._options,
        ]  # fmt: skip
        process = self._stack.enter_context(running(command, log, stop=signal.SIGINT, user=self._user))
        wait_until(self._answers, process, log)

    def stop(self) -> None:
        """Stop at once; open connections are cut."""
        self._stack.close()

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"learnd_{os.getpid()}_{next(self._numbers)}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"postgresql://learnd@127.0.0.1:{self._port}/{name}"

    def drop(self, url: str) -> None:
        """Remove a database, its open connections too."""
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{url.rsplit("/", 1)[1]}" WITH (FORCE)'.encode())

    def _dsn(self, name: str) -> str:
        return f"host=127.0.0.1 port={self._port} user=learnd dbname={name} connect_timeout=2"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._dsn("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


@contextlib.contextmanager
def postgres(*, durable: bool = False) -> Iterator[Server]:
    """A running server; everything of it is gone afterwards. Not `durable`: no fsync, for tests. Raises: MissingError."""
    with folder("learnd-postgres-") as path:
        server = Server(path, durable=durable)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def programs() -> Path:
    """The folder of initdb and postgres, newest version first. Raises: MissingError."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not versions:
        raise MissingError(f"PostgreSQL's tests need its server. {INSTALL}")
    return versions[-1].parent


def _user() -> str | None:
    """The user to run as: PostgreSQL refuses root."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise MissingError(f"as root PostgreSQL's tests need its user `postgres`. {INSTALL}") from None
