"""systemd hears what it must, over either kind of socket, and its absence harms nobody."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.sdnotify import notify, watchdog_seconds


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    path = str(tmp_path / "notify")
    name = path if request.param == "path" else f"@learnd-test-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + name[1:] if name.startswith("@") else name)
        channel.settimeout(5)
        yield channel, {"NOTIFY_SOCKET": name}


def heard(channel: socket.socket) -> list[str]:
    return channel.recv(65536).decode().split("\n")


def test_lines_arrive_as_one_datagram(manager: tuple[socket.socket, dict[str, str]]) -> None:
    channel, environment = manager
    assert notify("READY=1", "STATUS=waiting: drei Fragen — 80 %", environment=environment)
    assert heard(channel) == ["READY=1", "STATUS=waiting: drei Fragen — 80 %"]


def test_a_reason_cannot_smuggle_in_a_line(manager: tuple[socket.socket, dict[str, str]]) -> None:
    channel, environment = manager
    assert notify("STATUS=bad\nMAINPID=1\r\nSTOPPING=1", environment=environment)
    assert heard(channel) == ["STATUS=bad MAINPID=1 STOPPING=1"]


def test_a_reload_tells_its_time(manager: tuple[socket.socket, dict[str, str]]) -> None:
    channel, environment = manager
    before = time.monotonic_ns() // 1000
    assert notify("RELOADING=1", environment=environment)
    reloading, since = heard(channel)
    assert reloading == "RELOADING=1"
    assert before <= int(since.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_a_long_status_is_cut(manager: tuple[socket.socket, dict[str, str]]) -> None:
    channel, environment = manager
    assert notify("STATUS=" + "x" * 100_000, environment=environment)
    assert len(heard(channel)[0]) == 1000


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "/nowhere/at/all", "@nobody-listens-here"])
def test_without_a_manager_nothing_is_told_and_nothing_fails(address: str) -> None:
    assert not notify("READY=1", environment={"NOTIFY_SOCKET": address} if address else {})


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_says_how_often_it_wants_to_hear(environment: dict[str, str], seconds: float) -> None:
    assert watchdog_seconds(environment, pid=7) == seconds
