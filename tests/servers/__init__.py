"""Real servers for tests and benchmarks: Apache Kafka and PostgreSQL on free ports in a temporary folder.

Owns: finding their programs (or saying what to install), starting them, and leaving nothing behind: a server dies with
the process that started it, however that ends. Refuses to know the tests.
"""

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["MissingError", "folder", "free_port", "running", "wait_until"]

PR_SET_PDEATHSIG = 1


class MissingError(Exception):
    """A program that the tests need is not there; the message says what to install."""


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that other users may enter (PostgreSQL runs as its own), removed in the end."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def running(
    command: list[str], log: Path, *, stop: signal.Signals, user: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process that gets `stop` in the end, and is killed when this process dies first."""
    libc = ctypes.CDLL(None)

    def with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd=log.parent,
            start_new_session=True,
            preexec_fn=with_parent,  # noqa: PLW1509  one short call, before any thread of the child
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, seconds: float = 60.0
) -> None:
    """Wait until `ready`; a server that ends or stays silent fails with the end of its log."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)
