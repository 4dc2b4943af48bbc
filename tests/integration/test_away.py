"""The database goes away under a whole running service, comes back, and goes away for good: nothing lost, few lines."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from feedback import db, store
from tests.servers.postgres import postgres

BIN = Path(sys.executable).parent
WAITING = "waiting for the world"


def until(reached: Callable[[], bool], log: Path, seconds: float = 60.0) -> None:
    """Wait; the end of the log where it never comes."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, log.read_text(errors="replace")[-3000:]
        time.sleep(0.1)


def stored(url: str) -> int:
    """Records of the deployment."""
    engine = db.connect(url)
    try:
        return db.read(engine, lambda s: store.counters(s, "my-bot")["stored"])
    finally:
        engine.dispose()


def said(log: Path, event: str) -> int:
    """How often a line of the log has this event."""
    return sum(json.loads(line)["event"] == event for line in log.read_text().splitlines() if line.startswith("{"))


@contextmanager
def running(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A service that has begun; killed where the test has failed."""
    with log.open("wb") as errors:
        service = subprocess.Popen([BIN / "learnd", "run", "--config", config], stderr=errors, stdout=errors)
    try:
        until(lambda: "gathering" in log.read_text(), log)
        yield service
    finally:
        service.kill()
        service.wait()


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_database_that_goes_away_is_waited_for_in_few_lines_and_a_stop_meanwhile_is_clean(tmp_path: Path) -> None:
    subprocess.run([BIN / "learnd", "init", tmp_path / "here"], check=True, capture_output=True)
    config, log = tmp_path / "here" / "learnd.toml", tmp_path / "log"
    record = {"deployment": "my-bot", "prompt": "hello?", "response": "hi", "rating": 1, "user": "u"}
    record["time"] = "2026-01-01T00:00:00Z"

    def rate(number: int) -> None:
        with (tmp_path / "here" / "feed" / "ratings.jsonl").open("a") as file:
            file.write(json.dumps({**record, "id": f"r-{number}", "prompt": f"hello {number}?"}) + "\n")

    with postgres(durable=True) as server:
        url = server.database()
        body = config.read_text()
        template = '# database = "postgresql://learnd@db.example/learnd"'
        assert template in body
        config.write_text(body.replace(template, f'database = "{url}"'))
        with running(config, log) as service:
            rate(1)
            until(lambda: stored(url) == 1, log)
            server.stop()
            until(lambda: said(log, WAITING) == 1, log)
            rate(2)
            server.start()
            until(lambda: stored(url) == 2, log)
            until(lambda: said(log, f"{WAITING}: over") == 1, log)
            server.stop()
            until(lambda: said(log, WAITING) == 2, log)
            service.send_signal(signal.SIGTERM)
            assert service.wait(60) == 0, log.read_text()[-3000:]
    assert said(log, WAITING) == 2, "once a cause, not once a tick"
    assert said(log, "left without a note of it") == 1
