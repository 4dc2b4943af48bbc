"""Held records and the persons who let them go: named, with a reason, once, and in the audit log."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from typer.testing import CliRunner, Result

from daemon import api, commands, ctl, holding, peers
from daemon.audit import log
from daemon.config import Settings
from daemon.tables import AuditRow
from daemon.testing import FakeSource
from feedback import db, quarantine
from feedback.ingest import Ingest
from feedback.records import DeploymentRules, RecordSettings
from feedback.tables import Held, Record
from policies.errors import Refused
from tests.feedback.support import wire
from tests.stories import NOW, tell

OPERATOR = peers.OPERATOR
RULES = RecordSettings({"my-bot": DeploymentRules("shared")}, user_key=b"u", key_version=1, fold_key=b"f")


@dataclass
class House:
    """A database of the story with four records of its own, two raters', three of them held for two reasons."""

    settings: Settings
    engine: Engine

    def states(self) -> list[str]:
        return db.read(self.engine, lambda session: list(session.scalars(select(Record.state).order_by(Record.seq))))

    def ctl(self, *arguments: str) -> Result:
        return CliRunner().invoke(ctl.app, ["--config", str(self.settings.path), *arguments])

    def end(self, verb: str, **which: Any) -> dict[str, Any]:
        given = {"deployment": "my-bot", "actor": "lea", "role": OPERATOR, "reason": "known to us", "now": NOW} | which
        return db.transact(self.engine, lambda session: holding.end(session, verb=verb, **given))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    settings, engine = tell(tmp_path)
    when = datetime.fromtimestamp(NOW - 60, UTC).isoformat()
    records = [wire(id=f"r-{n}", user=f"u-{n % 2}", deployment="my-bot", time=when) for n in range(4)]
    Ingest(engine, FakeSource(records), RULES, lambda: NOW).step()

    def hold(session: Any) -> None:
        session.query(Held).delete()
        quarantine.hold(session, [1, 3], "a burst", NOW)
        quarantine.hold(session, [2], "in the training data of bot@1, which safety refused", NOW)

    db.transact(engine, hold)
    yield House(settings, engine)
    engine.dispose()


def test_what_is_held_is_listed_by_reason_without_a_daemon(house: House) -> None:
    rows = json.loads(house.ctl("quarantine", "list", "--json").stdout)
    assert {(row["reason"][:7], row["records"], row["raters"]) for row in rows} == {
        ("a burst", 2, 1),
        ("in the ", 1, 1),
    }
    table = house.ctl("quarantine", "list").stdout
    assert "a burst" in table
    assert f"learnctl quarantine release my-bot --hold {rows[0]['hold']}" in table
    burst = next(row["hold"] for row in rows if row["reason"] == "a burst")
    single = json.loads(house.ctl("quarantine", "list", "--hold", burst[:5], "--json").stdout)
    assert [row["id"] for row in single] == ["r-2", "r-0"]


def test_a_release_goes_through_the_socket_and_is_a_command_with_its_audit_entry(house: House) -> None:
    woken: list[str] = []
    control = api.serve(house.settings, house.engine, wake=lambda: woken.append("now"), now=lambda: NOW)
    try:
        done = house.ctl("quarantine", "release", "my-bot", "--seq", "1", "--seq", "2", "--reason", "a class", "--json")
    finally:
        control.stop()
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    assert (row["verb"], row["records"], row["outcome"], row["answer"]) == ("release", 2, "done", "2 records released")
    assert house.states() == ["live", "live", "quarantined", "live"]
    assert woken == ["now"]
    listed = db.read(house.engine, commands.listing)
    assert (listed[0]["id"], listed[0]["reason"], listed[0]["actor"]) == (row["id"], "a class", row["actor"])
    entry = json.loads(
        db.read(house.engine, lambda s: s.scalars(select(AuditRow.entry).order_by(AuditRow.index)).all()[-1])
    )
    assert (entry["action"], entry["actor"], entry["reason"]) == ("command:release", row["actor"], "a class")
    assert entry["facts"]["seqs"] == [[1, 2]]
    assert len(entry["facts"]["held_for"]) == 2
    assert db.read(house.engine, log.verify).ok


def test_without_a_daemon_nothing_is_let_go(house: House) -> None:
    done = house.ctl("quarantine", "drop", "my-bot", "--all", "--reason", "spam")
    assert done.exit_code == 69
    assert "quarantined" in house.states()


@pytest.mark.parametrize(
    ("which", "left"),
    [
        ({"rater": "HASH"}, ["live", "quarantined", "live", "live"]),
        ({"hold": "HOLD"}, ["live", "quarantined", "live", "live"]),
        ({"everything": True}, ["live"] * 4),
    ],
)
def test_a_rater_a_hold_or_everything_can_be_meant(house: House, which: dict[str, Any], left: list[str]) -> None:
    burst = next(row for row in db.read(house.engine, quarantine.listing) if row["reason"] == "a burst")
    known = {"HASH": burst["user_hash"], "HOLD": burst["hold"][:6]}
    house.end("release", **{name: known.get(str(value), value) for name, value in which.items()})
    assert house.states() == left


def test_a_released_record_carries_who_let_it_go_and_is_not_held_by_a_rule_again(house: House) -> None:
    house.end("release", hold="", seqs=[1])
    row = db.read(house.engine, lambda session: session.get_one(Held, 1))
    assert (row.ending, row.ended_by) == ("released", "lea")
    assert house.end("drop", everything=True)["answer"] == "2 records dropped"
    assert db.read(house.engine, quarantine.listing) == []
    assert house.states() == ["live", "quarantined", "quarantined", "live"]


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"seqs": [4]}, "no such record of my-bot is held"),
        ({}, "which held records are meant"),
        ({"seqs": [1], "everything": True}, "which held records are meant"),
        ({"seqs": [1], "reason": " "}, "needs a reason"),
        ({"seqs": [1], "role": "reader"}, "may look, not command"),
        ({"seqs": [1], "deployment": "other"}, "no deployment"),
        ({"seqs": [1], "verb": "forget"}, "nothing that is done with held records"),
    ],
)
def test_a_wish_that_can_not_be_is_refused_and_changes_nothing(house: House, wish: dict[str, Any], said: str) -> None:
    before = house.states()
    with pytest.raises(Refused, match=said):
        house.end(wish.pop("verb", "release"), **wish)
    assert house.states() == before
