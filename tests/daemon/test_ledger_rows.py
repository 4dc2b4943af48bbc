"""Every candidate that meets a set spends a share of its error rate; a new version of set or tasks begins anew."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from daemon import doctor, goldens, ledger
from daemon.audit.replay import replay
from daemon.config import parse_policy
from daemon.jobs import JobSpec
from daemon.probes import lm_eval
from daemon.tables import Cycle, LedgerRow, MeasurementRow, VerdictRow
from daemon.testing import InlineJobs
from feedback import db
from policies.errors import Misconfigured
from policies.model import SetView
from tests.daemon.test_service import DAY, World

pytestmark = pytest.mark.slow  # a whole service lives for days in each


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.import_goldens()
    return made


def rows(world: World, gate: str) -> list[LedgerRow]:
    query = select(LedgerRow).where(LedgerRow.gate == gate).order_by(LedgerRow.id)
    return db.read(world.service.engine, lambda session: list(session.scalars(query)))


def another(world: World) -> None:
    """One more cycle, whose candidate is promoted and settles."""
    world.clock.advance(DAY)
    world.say(80, prompt="what is fact 1", response="fact 1", rating=1, model_version=world.slot().champion)
    world.settle()
    world.clock.advance(DAY)
    world.corrections(80)
    world.settle()


def test_the_second_candidate_on_a_set_has_the_second_share_and_its_evidence_says_so(world: World) -> None:
    world.corrections(80)
    world.settle()
    another(world)
    assert [row.number for row in rows(world, "regression")] == [1, 2]
    assert [row.share for row in rows(world, "safety")] == pytest.approx([10 / 110, 10 / 132])
    judge = rows(world, "improvement")
    assert [row.number for row in judge] == [1, 1], "each window has records of its own"
    assert judge[0].items != judge[1].items
    query = select(VerdictRow).where(VerdictRow.gate == "regression").order_by(VerdictRow.id.desc())
    last = db.read(world.service.engine, lambda session: session.scalars(query).first())
    assert last is not None
    assert last.claims[-1]["note"] == ("candidate 2 on these items: 7.6 % of the error rate of 5 % spent, 83 % left")
    (kept,) = rows(world, "regression")[0].sets
    assert SetView(*kept).items == 100


def test_what_was_spent_is_what_a_replay_judges_with(world: World) -> None:
    world.corrections(80)
    world.settle()
    result = replay(world.service.engine, parse_policy)
    assert result.ok, (result.different, result.unreplayable)

    def lighten(session):  # type: ignore[no-untyped-def]
        for row in session.scalars(select(LedgerRow)):
            row.share = 1e-9

    db.transact(world.service.engine, lighten)
    changed = replay(world.service.engine, parse_policy)
    assert {finding.was.split(" ")[0] for finding in changed.different} >= {"safety", "regression"}


def test_the_doctor_says_what_is_left(world: World) -> None:
    world.corrections(80)
    world.settle()
    said = [finding.message for finding in doctor.examine(world.settings.path) if finding.check == "ledger"]
    assert "bot: 1 candidate met the sets of regression, 91 % of its error rate is left" in said


def test_a_new_version_of_a_set_begins_anew(world: World) -> None:
    world.corrections(80)
    world.settle()
    policy = world.service._running["bot"].context.policy
    engine = world.service.engine
    before = db.read(engine, lambda session: ledger.upcoming(session, "bot", policy))
    assert {gate: share.number for gate, share in before.items()} == dict.fromkeys(before, 2)
    line = json.dumps({"id": "n1", "prompt": "what is fact 3", "check": {"kind": "contains", "value": "fact 3"}})
    db.transact(
        engine,
        lambda session: goldens.import_file(
            session, deployment="bot", name="facts", role="goldens", text=line, actor="ada", now=1.0
        ),
    )
    after = db.read(engine, lambda session: ledger.upcoming(session, "bot", policy))
    assert (after["regression"].number, after["safety"].number) == (1, 2)


class Tasked(InlineJobs):
    """Jobs whose evaluations also ask three documents of each task, as those of a model with weights do."""

    tasks: tuple[str, ...] = ()

    def start(self, spec: JobSpec) -> None:
        super().start(spec)
        path = self.folder(spec.key) / "measurements.jsonl"
        if spec.kind != "evaluate" or not self.tasks:
            return
        told = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for version in {row["version"] for row in told}:
            plain = {"version": version, "seed": 0, "said": "", "environment": told[0]["environment"], "value": 1.0}
            for name in self.tasks:
                told.append({**plain, "probe": "plan", "set": name, "item": "items", "slice": "", "value": 3.0})
                told += [{**plain, "probe": "lm_eval", "set": name, "item": n, "slice": "arc"} for n in "012"]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in told), "utf-8")


def test_other_files_of_a_task_begin_anew_for_retention_alone(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "arc.yaml").write_text("task: arc", "utf-8")
    world = World(tmp_path / "world")
    world.service.stop()
    world.jobs = jobs = Tasked(world.jobs.root, world.clock.now)
    jobs.tasks = tuple(lm_eval.names(lm_eval.Options(folder, ("arc",))))
    world.service = world.open()
    world.import_goldens()
    world.corrections(80)
    world.settle()
    (row,) = rows(world, "retention")
    assert [view[0] for view in row.sets] == ["old"], "a task is no accepted set"
    plain = world.service._running["bot"].context.policy
    policy = replace(plain, probes={"lm_eval": {"folder": str(folder), "tasks": ["arc"]}})
    engine = world.service.engine

    def numbers() -> tuple[int, int]:
        found = db.read(engine, lambda session: ledger.upcoming(session, "bot", policy))
        return found["retention"].number, found["regression"].number

    assert numbers() == (2, 2), "the evaluation spent on what the policy will measure next"
    (folder / "arc.yaml").write_text("task: arc # harder", "utf-8")
    assert numbers() == (1, 2)
    assert db.read(engine, lambda session: ledger.upcoming(session, "bot", plain))["retention"].number == 1
    (folder / "arc.jsonl").symlink_to("/proc/self/mem")  # a file that nobody can read, not even root
    with pytest.raises(Misconfigured, match="can't be read"):
        numbers()


def test_a_question_that_many_asked_is_one_judge_item(world: World) -> None:
    for _ in range(12):
        world.say(1, prompt="Umbrella, please?", response="?", rating=-1, correction="umbrella is fine")
        world.say(1, prompt="umbrella please", response="?", rating=-1, correction="umbrella is fine")
    world.corrections(80)
    world.settle()
    cycle = db.read(world.service.engine, lambda session: session.scalars(select(Cycle)).one())
    query = select(MeasurementRow.item).where(
        MeasurementRow.evaluation == cycle.evaluation,
        MeasurementRow.probe == "improvement",
        MeasurementRow.version == cycle.champion,
    )
    asked = db.read(world.service.engine, lambda session: list(session.scalars(query)))
    lines = (world.folder / "feed" / "day.jsonl").read_text("utf-8").splitlines()
    prompts = {record["id"]: record["prompt"] for record in map(json.loads, lines)}
    assert asked
    assert sum("mbrella" in prompts[item] and len(prompts[item]) < 18 for item in asked) <= 1
    assert len({prompts[item].casefold() for item in asked}) == len(asked)
