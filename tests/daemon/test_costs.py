"""What jobs took is measured once, kept once, told by month, and known when the next method is chosen."""

import ctypes
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
from daemon.context import Context
from daemon.energy import Cards, Packages
from daemon.jobs import JobSpec, folder_of, prepare, write_json
from daemon.jobs.usage import usage_in
from daemon.observe import observe
from daemon.tables import CostRow, Cycle, Decision, Slot, VersionRow
from daemon.testing import InlineJobs
from feedback import db
from policies.model import JobView, Usage
from tests.daemon.test_service import DAY, World
from tests.job_entries import crash, double

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


def zone(root: Path, name: str, kind: str, value: int, most: int = 1000) -> Path:
    folder = root / name
    folder.mkdir()
    for file, text in (("name", kind), ("energy_uj", str(value)), ("max_energy_range_uj", str(most))):
        (folder / file).write_text(f"{text}\n")
    return folder / "energy_uj"


def test_packages_are_added_up_over_a_wrap_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", "package-0", 900), zone(tmp_path, "intel-rapl:1", "package-1", 10)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 5)
    packages = Packages(tmp_path)
    first.write_text("100\n")
    second.write_text("30\n")
    core.write_text("500\n")
    assert packages.joules() == pytest.approx(220e-6)
    first.write_text("150\n")
    assert packages.joules() == pytest.approx(270e-6)
    packages.close()


def test_energy_that_cannot_be_read_is_unknown_and_not_nought(tmp_path: Path) -> None:
    assert Packages(tmp_path).joules() is None
    zone(tmp_path, "intel-rapl:0", "package-0", 1).unlink()
    assert Packages(tmp_path).joules() is None
    assert Cards(Nvml(), {"CUDA_VISIBLE_DEVICES": ""}).joules() is None
    assert Cards(Nvml(deaf=True), {}).joules() is None


class Nvml:
    """NVML as its header has it: two GPUs, each of which takes its number plus one joule between two looks."""

    def __init__(self, deaf: bool = False) -> None:
        self.deaf, self.open, self.looks = deaf, 0, [0, 0]

    def nvmlInit_v2(self) -> int:
        self.open += 1
        return 0

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, number: Any) -> int:
        number._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:
        handle._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:
        handle._obj.value = 2
        return 0 if name == b"GPU-two" else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, value: Any) -> int:
        place = (handle.value or 0) - 1
        self.looks[place] += 1
        value._obj.value = 5000 + self.looks[place] * 1000 * (place + 1)
        return 3 if self.deaf else 0


@pytest.mark.parametrize(("visible", "joules"), [(None, 3.0), ("0", 1.0), ("1", 2.0), ("GPU-two", 2.0), ("0,1", 3.0)])
def test_only_the_gpus_that_the_job_may_use_are_counted(visible: str | None, joules: float) -> None:
    library = Nvml()
    cards = Cards(library, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert cards.joules() == pytest.approx(joules)
    assert library.open == 0, "opened as often as closed"


def test_a_card_that_is_not_there_makes_the_sum_unknown() -> None:
    assert Cards(Nvml(), {"CUDA_VISIBLE_DEVICES": "0,MIG-1"}).joules() is None


def test_what_all_attempts_took_is_added_up_and_a_gpu_counts_by_the_wall(tmp_path: Path) -> None:
    jobs = InlineJobs(tmp_path, lambda: 5.0)
    folder = folder_of(tmp_path, "k")
    jobs.start(spec(crash, 0, "gpu"))
    failed = usage_in(folder)
    assert failed is not None
    assert failed.gpu_seconds == failed.seconds > 0
    write_json(folder / "cost.json", {"seconds": 100.0, "cpu_seconds": None, "gpu_seconds": 50.0, "joules": 7.0})
    jobs.start(spec(double, 1, "cpu"))
    whole = usage_in(folder)
    assert whole is not None
    assert 100.0 < whole.seconds < 101.0
    assert whole.cpu_seconds is not None
    assert whole.gpu_seconds == 50.0, "a job on the processor takes no GPU"


def spec(entry: Any, number: int, device: str) -> JobSpec:
    return JobSpec("k", "train", f"{entry.__module__}:{entry.__name__}", {"number": number}, device=device)


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
    assert past.gain > 0.5
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


def test_a_snapshot_of_before_is_read_as_one_without_experience(world: World) -> None:
    world.corrections(80)
    world.settle()
    stored = db.read(world.service.engine, lambda session: session.scalars(select(Decision)).all()[-1].snapshot)
    old = {name: value for name, value in stored.items() if name != "experience"}
    assert codec.snapshot_from_json(old).experience == ()


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
    prepare(jobs.folder("k"), spec(double, 1, "cpu"), world.clock.now())
    world.clock.advance(120.0)
    assert costs.taken(context, "k") == costs.Taken("k", "train", Usage(120.0))
    known = {"seconds": 10.0, "cpu_seconds": 8.0, "gpu_seconds": 0.0, "joules": None}
    write_json(jobs.folder("k") / "cost.json", known)
    assert costs.taken(context, "k") == costs.Taken("k", "train", Usage(130.0, cpu_seconds=8.0, gpu_seconds=0.0))


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
    session.add(CostRow(**named, at=at, **values, money=1234.5, currency="EUR"))


def test_show_says_what_a_version_cost(world: World) -> None:
    world.corrections(80)
    world.settle()
    shown = CliRunner().invoke(ctl.app, ["--config", str(world.settings.path), "show", world.slot().champion])
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("  cost "))
    assert "CPU h" in line
    assert "CHF" in line
    assert "GPU" not in line, "no GPU was used"
