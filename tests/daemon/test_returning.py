"""A rollback is proven by answers, and stays one where it can't be."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from daemon.jobs import folder_of
from daemon.tables import AuditRow, CostRow, Setting
from feedback import db
from tests.daemon.test_service import World

pytestmark = pytest.mark.slow  # a whole service lives for days in each


def entries(world: World) -> list[dict[str, str]]:
    rows = db.read(world.service.engine, lambda s: list(s.scalars(select(AuditRow.entry).order_by(AuditRow.index))))
    return [entry for entry in map(json.loads, rows) if entry["action"].startswith("rollback")]


def waiting(world: World) -> str:
    """The key of the proof that waits, "" without one."""
    found = select(Setting.value).where(Setting.name.startswith("rollback/"))
    value = db.read(world.service.engine, lambda session: session.scalar(found))
    return str(json.loads(value)["key"]) if value else ""


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One version promoted over the adopted one."""
    made = World(tmp_path)
    made.import_goldens()
    made.corrections(80)
    made.settle()
    assert made.slot().phase == "watching", made.slot().reason
    return made


def recordings(world: World) -> list[Path]:
    return sorted(folder_of(world.folder / "state" / "jobs", "x").parent.glob("*/distinct.jsonl"))


def test_a_rollback_is_proven_by_the_recorded_answers(world: World) -> None:
    adopted = world.slot().predecessor
    number = world.command("rollback")
    world.settle()
    assert world.answer(number).outcome == "done"
    assert [entry["action"] for entry in entries(world)] == ["rollback:rolled_back", "rollback:proven"]
    last = entries(world)[-1]
    assert last["version"] == adopted == world.serves()
    assert f"recorded prompts answered as {adopted} does" in last["reason"]
    assert not waiting(world)
    proofs = select(CostRow.cycle, CostRow.cpu_seconds).where(CostRow.kind == "prove")
    (_, (cycle, seconds)) = db.read(world.service.engine, lambda s: list(s.execute(proofs.order_by(CostRow.id))))
    assert (cycle, seconds > 0.0) == (1, True), "the attempt paid for the way back too"


def test_a_target_that_answers_otherwise_is_told_and_the_rollback_stays(world: World, tmp_path: Path) -> None:
    adopted, promoted = world.slot().predecessor, world.slot().champion
    world.command("rollback")
    while world.slot().phase == "watching":
        world.service.tick()
    # What a stale cache looks like: the old name, the new version's answers.
    versions = tmp_path / "serving" / "versions"
    wrong = (versions / promoted / "answers.json").read_bytes()
    answers = versions / adopted / "answers.json"
    answers.chmod(0o644)
    answers.parent.chmod(0o755)
    answers.write_bytes(wrong)
    world.settle()
    assert entries(world)[-1]["action"] == "rollback:unproven"
    assert (world.slot().champion, world.slot().phase, waiting(world)) == (adopted, "idle", "")


def test_without_recorded_prompts_the_reason_says_so(world: World) -> None:
    adopted = world.slot().predecessor
    for path in recordings(world):
        path.unlink()
    number = world.command("rollback")
    world.settle()
    assert world.answer(number).answer == (
        f"rolled_back: no recorded prompts of {adopted}: that it serves is not proven by answers"
    )
    assert (world.serves(), waiting(world)) == (adopted, "")
    assert [entry["action"] for entry in entries(world)] == ["rollback:rolled_back"]


def test_a_lost_proof_starts_again_and_gives_up_some_time(world: World) -> None:
    world.command("rollback")
    while not waiting(world):
        world.service.tick()
    for _ in range(8):
        key = waiting(world)
        world.service.tick()
        world.jobs.lose(key or "none")
    assert not waiting(world)
    assert entries(world)[-1]["action"] == "rollback:unproven"
    assert "its job was lost" in entries(world)[-1]["reason"]


def test_a_restart_between_rollback_and_proof_forgets_nothing(world: World) -> None:
    world.command("rollback")
    while not waiting(world):
        world.service.tick()
    world.service.stop()
    world.service = world.open()
    world.settle()
    assert entries(world)[-1]["action"] == "rollback:proven"
