"""What jobs took is measured once, kept once, told by month, and known when the next method is chosen."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from daemon import codec, costs, ctl, spent
from daemon.audit.replay import replay
from daemon.codec import canonical
from daemon.context import Context
from daemon.jobs import JobSpec, prepare, write_json
from daemon.observe import observe
from daemon.tables import CostRow, Cycle, Decision, PolicyRow, Slot, VerdictRow, VersionRow
from daemon.testing import InlineJobs
from feedback import db
from policies.costs import HOUR
from policies.model import JobView, Usage
from tests.daemon.test_service import DAY, World
from tests.job_entries import double

pytestmark = pytest.mark.slow  # a whole service lives in each

PRICED = "\n[costs]\ngpu_hour = 2.0\ncpu_hour = 3600.0\nworth = 0.000001\ncurrency = 'CHF'\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    with (tmp_path / "policy.toml").open("a", encoding="utf-8") as file:
        file.write(PRICED)
    made.service.stop()
    made.service = made.open()
    made.import_goldens()
    return made


def rows(world: World) -> list[CostRow]:
    return db.read(world.service.engine, lambda session: list(session.scalars(select(CostRow).order_by(CostRow.id))))


def context_of(world: World) -> Context:
    return world.service._running["bot"].context


def test_every_job_of_an_attempt_is_a_row_and_the_version_holds_their_sum(world: World) -> None:
    world.corrections(80)
    world.settle()
    kept = rows(world)
    assert [row.kind for row in kept] == ["train", "evaluate", "prove"]
    champion = world.slot().champion
    assert {(row.version, row.method, row.cycle, row.currency) for row in kept} == {(champion, "echo", 1, "CHF")}
    for row in kept:
        assert row.cpu_seconds is not None
        assert row.money == pytest.approx(row.cpu_seconds), "an hour of a core costs 3,600"
    version = db.read(world.service.engine, lambda session: session.get_one(VersionRow, champion))
    cost = version.evidence["cost"]
    assert cost["cpu_seconds"] == pytest.approx(sum(row.cpu_seconds or 0.0 for row in kept))
    assert cost["money"]["CHF"] == pytest.approx(sum(row.money or 0.0 for row in kept))


def test_an_outcome_that_is_written_again_doubles_no_cost(world: World) -> None:
    world.corrections(80)
    world.settle()
    context = context_of(world)

    def again(session: Session) -> None:
        cycle = session.scalars(select(Cycle)).one()
        for row in session.scalars(select(CostRow)).all():
            costs.write(session, context, cycle, row.version, costs.Taken(row.job, row.kind, Usage(1e9)))

    before = [(row.job, row.seconds) for row in rows(world)]
    db.transact(world.service.engine, again)
    assert [(row.job, row.seconds) for row in rows(world)] == before


def test_the_next_method_is_weighed_by_what_the_last_ones_took_and_brought(world: World) -> None:
    world.corrections(80)
    world.settle()
    world.clock.advance(DAY)
    world.say(80, prompt="what is fact 1", response="fact 1", rating=1, model_version=world.slot().champion)
    world.settle()
    context = context_of(world)

    def look(session: Session) -> Any:
        return observe(session, session.scalars(select(Slot)).one(), context)

    snapshot = db.read(world.service.engine, look)
    (past,) = snapshot.experience
    assert (past.method, past.attempts) == ("echo", 1)
    assert past.gain == gain(world) > 0.0, "what the improvement gate measured on the judge records"
    assert past.usage.cpu_seconds == pytest.approx(sum(row.cpu_seconds or 0.0 for row in rows(world)))
    world.clock.advance(DAY)
    world.corrections(80)
    world.settle()
    assert "echo would cost" in world.slot().reason
    assert "CHF for an expected gain" in world.slot().reason
    assert len(world.cycles()) == 1
    world.command("train")
    world.settle()
    assert len(world.cycles()) == 2, "a person's command is not weighed"


def gain(world: World) -> float:
    query = select(VerdictRow.claims).where(VerdictRow.gate == "improvement")
    (claims,) = db.read(world.service.engine, lambda session: session.scalars(query).all())
    return float(next(claim["estimate"] for claim in claims if claim["name"] == "gain"))


def test_a_snapshot_of_before_is_read_as_one_without_experience(world: World) -> None:
    world.corrections(80)
    world.settle()
    stored = db.read(world.service.engine, lambda session: session.scalars(select(Decision)).all()[-1].snapshot)
    old = {name: value for name, value in stored.items() if name != "experience"}
    assert codec.snapshot_from_json(old).experience == ()


def test_decisions_of_a_release_that_knew_no_costs_replay_the_same(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.import_goldens()
    world.corrections(80)
    world.settle()

    def older_release(session: Session) -> None:
        (stored,) = session.scalars(select(PolicyRow)).all()
        document = json.loads(stored.text)
        assert document.pop("costs")
        was, stored.text = stored.hash, canonical(document).decode()
        stored.hash = hashlib.sha256(stored.text.encode()).hexdigest()
        for row in (kept for kind in (Decision, Cycle, VerdictRow) for kept in session.scalars(select(kind))):
            row.policy_hash = stored.hash
        for decision in session.scalars(select(Decision)):
            snapshot = {name: value for name, value in decision.snapshot.items() if name != "experience"}
            decision.snapshot = json.loads(json.dumps(snapshot).replace(was, stored.hash))

    db.transact(world.service.engine, older_release)
    found = replay(world.service.engine)
    assert found.ok, (found.different, found.unreplayable)
    assert found.decisions >= 6


def test_a_promoted_version_and_its_month_name_seconds_and_their_price(world: World) -> None:
    world.corrections(80)
    world.settle()
    champion = world.slot().champion
    assert world.slot().phase == "watching", "promoted"
    (evidence, (month,)) = (
        asked(world, "show", champion, "--json")["evidence"]["cost"],
        asked(world, "costs", "--json"),
    )
    for told in (evidence, month):
        assert told["cpu_seconds"] > 0.0
        assert told["money"] == {"CHF": pytest.approx(told["cpu_seconds"] * 3600.0 / HOUR)}
        assert told["gpu_seconds"] == 0.0
        assert told["tokens"] > 0
        (device,) = told["devices"]
        assert device.startswith("cpu: ")
    assert month["cpu_seconds"] == pytest.approx(evidence["cpu_seconds"]), "this version is all that was made"


def asked(world: World, *words: str) -> Any:
    shown = CliRunner().invoke(ctl.app, ["--config", str(world.settings.path), *words])
    assert shown.exit_code == 0, shown.output
    return json.loads(shown.stdout)


def test_a_job_that_failed_costs_too(world: World) -> None:
    world.corrections(80)
    for _ in range(60):
        world.service.ingest_once()
        world.service.tick()
        if world.jobs.started:
            break
    key = world.jobs.started[0].key
    folder = world.jobs.folder(key)
    (folder / "result.json").unlink()
    write_json(folder / "error.json", {"kind": "Refused", "message": "no", "hint": ""})
    world.settle()
    assert world.cycles()[0].outcome == "failed"
    (row,) = rows(world)
    assert (row.job, row.kind, row.version, row.cycle) == (key, "train", "", 1)


class Running(InlineJobs):
    """Jobs that are found running, as a child is that is about to be cancelled."""

    def find(self, key: str) -> JobView:
        return replace(super().find(key), state="running")


def test_of_a_job_that_is_cancelled_it_is_known_how_long_it_ran(world: World, tmp_path: Path) -> None:
    jobs = Running(tmp_path / "other", world.clock.now)
    context = replace(context_of(world), jobs=jobs)
    prepare(jobs.folder("k"), JobSpec("k", "train", f"{double.__module__}:double", {"number": 1}), world.clock.now())
    world.clock.advance(120.0)
    assert costs.taken(context, "k") == costs.Taken("k", "train", Usage(120.0))
    known = {"seconds": 10.0, "cpu_seconds": 8.0, "gpu_seconds": 0.0, "joules": None, "device": "cpu: x"}
    write_json(jobs.folder("k") / "cost.json", known)
    told = Usage(10.0, cpu_seconds=8.0, gpu_seconds=0.0)
    assert costs.taken(context, "k") == costs.Taken("k", "train", told, "cpu: x"), "its own word, a minute old at most"


def test_months_are_told_by_deployment_without_the_daemon(world: World) -> None:
    world.corrections(80)
    world.settle()
    month = datetime.fromtimestamp(world.clock.now(), UTC).strftime("%Y-%m")
    db.transact(world.service.engine, older)
    told = db.read(world.service.engine, spent.months)
    assert [(row["month"], row["attempts"], row["promoted"], row["jobs"]) for row in told] == [
        (month, 1, 1, 3),
        ("2020-02", 0, 0, 1),
    ]
    world.service.stop()
    shown = CliRunner().invoke(ctl.app, ["--config", str(world.settings.path), "costs"])
    assert shown.exit_code == 0, shown.output
    last = shown.stdout.splitlines()[-1].split()
    assert last == ["bot", "2020-02", "0", "0", "2.00", "0.50", "1,000", "1,234.50", "EUR"], "no energy: blank"
    asked = ["--config", str(world.settings.path), "costs", "--deployment", "bot", "--json"]
    assert json.loads(CliRunner().invoke(ctl.app, asked).stdout) == told
    wrong = CliRunner().invoke(ctl.app, ["--config", str(world.settings.path), "costs", "--deployment", "nobody"])
    assert wrong.exit_code == 1


def older(session: Session) -> None:
    at = datetime(2020, 2, 29, 23, 59, tzinfo=UTC).timestamp()
    values = {"seconds": 1.0, "cpu_seconds": 7200.0, "gpu_seconds": 1800.0, "joules": None, "tokens": 1000}
    named = {"job": "j", "kind": "train", "deployment": "bot", "cycle": 0, "version": "", "method": "lora"}
    session.add(CostRow(**named, at=at, **values, money=1234.5, currency="EUR", device="gpu", counters=""))


def test_show_says_what_a_version_cost(world: World) -> None:
    world.corrections(80)
    world.settle()
    shown = CliRunner().invoke(ctl.app, ["--config", str(world.settings.path), "show", world.slot().champion])
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("  cost "))
    assert "CPU h" in line
    assert "CHF" in line
    assert "GPU h" not in line, "no GPU was used"
    assert "on cpu: " in line
