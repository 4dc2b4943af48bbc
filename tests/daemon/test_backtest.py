"""Another policy tried on the past: what would have been different is named, nothing is guessed, nothing is changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select
from typer.testing import CliRunner, Result

from daemon import ctl
from daemon.audit import log
from daemon.audit.backtest import Backtest, backtest
from daemon.policyfile import load_policy
from daemon.tables import AuditRow, Decision, MeasurementRow
from feedback import db
from tests.daemon.test_service import POLICY, World

pytestmark = pytest.mark.slow  # a whole service lives for days in each

WAS, STRICTER = "[gates.improvement]\nminimum = 5\n", "[gates.improvement]\nminimum = 5000\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A version promoted over the adopted one, and watched."""
    made = World(tmp_path_factory.mktemp("past"))
    made.import_goldens()
    made.corrections(80)
    made.settle()
    assert made.slot().phase == "watching", made.slot().reason
    return made


def under(world: World, was: str = "", now: str = "") -> Backtest:
    assert was in POLICY
    path = world.folder / "other.toml"
    path.write_text(POLICY.format(mode="auto").replace(was, now) if was else POLICY.format(mode="auto"), "utf-8")
    return backtest(world.service.engine, load_policy(path), "bot")


def told(world: World, *arguments: str) -> Result:
    return CliRunner().invoke(ctl.app, ["--config", str(world.folder / "learnd.toml"), "backtest", *arguments])


def test_the_policy_that_was_in_force_changes_nothing(world: World) -> None:
    found = under(world)
    assert (found.same, found.verdicts_same) == (found.decisions, found.verdicts)
    assert found.decisions > 5
    assert found.verdicts == 7
    assert (found.changes, found.unreplayable, found.moves) == ((), (), ())


def test_a_stricter_gate_would_have_refused_the_promotion(world: World) -> None:
    found = under(world, WAS, STRICTER)
    verdict, *decisions = found.changes
    assert (verdict.what, verdict.subject, verdict.was) == (
        "verdict",
        f"improvement of {world.slot().champion}",
        "pass",
    )
    assert verdict.now == "inconclusive"
    assert (decisions[0].was, decisions[0].now) == ("Promote", "Reject inconclusive")
    assert "improvement" in decisions[0].why
    assert found.moves[0][:2] == ("Promote", "Reject inconclusive")


def test_another_mode_asks_a_person_where_it_promoted(world: World) -> None:
    path = world.folder / "asks.toml"
    path.write_text(POLICY.format(mode="approve"), "utf-8")
    found = backtest(world.service.engine, load_policy(path), "bot")
    assert ("Promote", "AskApproval") in {(was, now) for was, now, _ in found.moves}
    assert found.verdicts_same == found.verdicts


def test_it_reads_only_and_needs_no_daemon(world: World) -> None:
    def rows(session: Any) -> list[int]:
        return [session.scalar(select(func.count()).select_from(table)) for table in (AuditRow, Decision)]

    before = db.read(world.service.engine, rows)
    path = world.folder / "other.toml"
    path.write_text(POLICY.format(mode="auto").replace(WAS, STRICTER), "utf-8")
    done = told(world, "--policy", str(path))
    assert done.exit_code == 0, done.output
    assert "Reject inconclusive instead of Promote" in done.stdout
    assert "improvement of" in done.stdout
    as_json = json.loads(told(world, "--policy", str(path), "--deployment", "bot", "--json").stdout)
    assert as_json["moves"][0][:2] == ["Promote", "Reject inconclusive"]
    assert db.read(world.service.engine, rows) == before
    assert db.read(world.service.engine, log.verify).ok


def test_a_policy_that_can_not_be_read_is_said(world: World, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[gates.nonsense]\n", "utf-8")
    assert told(world, "--policy", str(tmp_path / "bad.toml")).exit_code == 78


def test_what_can_not_be_told_is_listed(world: World) -> None:
    """Last of this file: it takes the measurements away."""
    db.transact(world.service.engine, lambda session: session.execute(delete(MeasurementRow)) and None)
    found = under(world)
    assert {each.what for each in found.unreplayable} == {"decision", "verdict"}
    assert found.verdicts_same == 0
    assert found.changes == ()
