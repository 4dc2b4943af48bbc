"""The control socket: a real server on a real Unix socket, where the caller is who the kernel says."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, func, select

from daemon import api, peers
from daemon.audit import log
from daemon.config import Settings
from daemon.tables import CommandRow
from feedback import db
from policies.errors import Misconfigured
from tests.stories import NOW, REFUSED, tell

NOBODY = 65534


@dataclass
class Desk:
    """A running socket, its database, and how often the loop was woken."""

    settings: Settings
    engine: Engine
    woken: list[str] = field(default_factory=list)

    def get(self, path: str, **parameters: object) -> httpx.Response:
        return self.ask("GET", path, params=parameters)

    def ask(self, method: str, path: str, **request: object) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self.settings.socket))
        with httpx.Client(transport=transport, base_url="http://learnd", timeout=10) as client:
            return client.request(method, path, **request)  # type: ignore[arg-type]

    def commands(self) -> int:
        return db.read(self.engine, lambda session: session.scalar(select(func.count(CommandRow.id))) or 0)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    settings, engine = tell(tmp_path)
    made = Desk(settings, engine)
    control = api.serve(settings, engine, wake=lambda: made.woken.append("now"), now=lambda: NOW)
    yield made
    control.stop()
    engine.dispose()


def test_every_view_answers(desk: Desk) -> None:
    for path in ("status", "cycles", "versions", "drift", "dead_letters", "commands", "goldens"):
        answer = desk.get(f"/{path}")
        assert answer.status_code == 200, (path, answer.text)
    assert desk.get("/status").json()["deployments"][0]["name"] == "my-bot"
    assert desk.get("/costs").json()[0]["deployment"] == "my-bot"
    assert desk.get("/costs", deployment="nobody").status_code == 409
    assert desk.get("/show", version="b1d3").json()["version"] == REFUSED
    assert desk.get("/items", version="b1d3", gate="safety").json()[0]["item"] == "h1"
    assert "learnd_up" in desk.get("/metrics").text
    assert desk.woken == [], "looking wakes nobody"


def test_a_command_is_a_row_of_the_peers_user_and_wakes_the_loop(desk: Desk) -> None:
    before = desk.commands()
    answer = desk.ask("POST", "/commands", json={"deployment": "my-bot", "verb": "pause", "reason": "freeze"})
    assert answer.status_code == 201
    assert answer.json()["actor"] == peers.actor_of(os.getuid())
    assert desk.commands() == before + 1
    assert desk.woken == ["now"]
    assert desk.get(f"/commands/{answer.json()['id']}").json() == answer.json()


@pytest.mark.parametrize(
    "wish",
    [
        {"deployment": "my-bot", "verb": "rollback"},
        {"deployment": "my-bot", "verb": "rollback", "reason": " "},
        {"deployment": "my-bot", "verb": "erase", "reason": "x"},
        {"deployment": "other", "verb": "pause"},
        {"deployment": "my-bot", "verb": "promote", "version": "zzz", "reason": "x"},
        {"deployment": "my-bot", "verb": "pause", "reason": "x" * 5000},
    ],
)
def test_a_wish_that_can_not_be_is_refused_with_what_to_do(desk: Desk, wish: dict[str, str]) -> None:
    before = desk.commands()
    answer = desk.ask("POST", "/commands", json=wish)
    assert answer.status_code == 409
    assert answer.json()["error"] == "Refused"
    assert answer.json()["hint"]
    assert desk.commands() == before
    assert desk.woken == []


@pytest.mark.parametrize(
    "wish",
    [
        {"deployment": "my-bot", "verb": "pause", "actor": "root", "role": "operator"},
        {"deployment": "my-bot"},
        {"deployment": 3, "verb": "pause"},
        [],
    ],
)
def test_nobody_can_say_who_he_is_nor_send_what_is_not_asked(desk: Desk, wish: object) -> None:
    assert desk.ask("POST", "/commands", json=wish).status_code == 422
    assert desk.woken == []


def test_another_user_reads_but_neither_commands_nor_sees_what_was_said(desk: Desk, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test changes its user: run it as root")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    desk.settings.socket.parent.chmod(0o755)
    asked = "\n".join(
        [
            "import os, socket, sys",
            f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})",
            "def ask(request):",
            "    with socket.socket(socket.AF_UNIX) as peer:",
            "        peer.connect(sys.argv[1]); peer.sendall(request.encode())",
            "        return peer.makefile().readline().split()[1]",
            'body = \'{"deployment": "my-bot", "verb": "pause"}\'',
            "end = 'HTTP/1.1\\r\\nHost: l\\r\\nConnection: close\\r\\n'",
            "post = 'Content-Type: application/json\\r\\nContent-Length: ' + str(len(body)) + '\\r\\n\\r\\n' + body",
            "print(ask('GET /status ' + end + '\\r\\n'), ask('POST /commands ' + end + post),",
            "      ask('GET /items?version=b1d3&gate=safety ' + end + '\\r\\n'))",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", asked, str(desk.settings.socket)], capture_output=True, text=True, cwd="/", check=True
    )
    assert done.stdout.split() == ["200", "409", "409"]
    assert desk.woken == []


def test_roles_follow_from_user_and_group() -> None:
    assert peers.role_of(0, "") == peers.OPERATOR
    assert peers.role_of(os.geteuid(), "") == peers.OPERATOR
    assert peers.role_of(NOBODY, "") == peers.READER
    assert peers.role_of(NOBODY, "no-such-group") == peers.READER
    assert peers.role_of(4_000_000, "") == peers.READER
    assert peers.actor_of(4_000_000) == "uid 4000000"


def test_a_golden_set_is_taken_with_its_actor_and_noted_in_the_audit_log(desk: Desk, tmp_path: Path) -> None:
    text = (tmp_path / "goldens" / "goldens.jsonl").read_text(encoding="utf-8")
    file = {"deployment": "my-bot", "name": "faq", "role": "goldens", "text": text}
    answer = desk.ask("POST", "/goldens", json=file)
    assert answer.status_code == 201
    assert answer.json()["stored"] is True
    assert desk.get("/goldens").json()[0]["accepted_by"] == peers.actor_of(os.getuid())
    assert db.read(desk.engine, log.verify).entries == 1
    assert desk.ask("POST", "/goldens", json=file).json()["new"] is False
    assert db.read(desk.engine, log.verify).entries == 1, "the same content again is no change"


def test_a_second_server_on_a_live_socket_is_refused_and_a_dead_one_is_replaced(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="another learnd serves"):
        api.serve(desk.settings, desk.engine, wake=lambda: None, now=lambda: NOW)
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    control = api.serve(replace(desk.settings, socket=dead), desk.engine, wake=lambda: None, now=lambda: NOW)
    assert peers.listens(dead)
    control.stop()
    assert not dead.exists(), "nothing is left behind"


def test_a_path_that_is_too_long_says_so(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="can't be the control socket"):
        api.serve(
            replace(desk.settings, socket=tmp_path / ("x" * 120)), desk.engine, wake=lambda: None, now=lambda: NOW
        )
