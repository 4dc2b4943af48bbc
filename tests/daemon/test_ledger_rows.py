"""Every candidate that meets a set spends a share of its error rate; a new version of the set begins anew."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from daemon import doctor, goldens, ledger
from daemon.audit.replay import replay
from daemon.config import parse_policy
from daemon.tables import Cycle, LedgerRow, MeasurementRow, VerdictRow
from feedback import db
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
