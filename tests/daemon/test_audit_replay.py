"""The past is judged again in full: what holds is the same, what was touched is different, and nothing is skipped."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from daemon import codec
from daemon.audit.replay import Replay, replay
from daemon.policyfile import canonical, parse_policy
from daemon.tables import Cycle, Decision, MeasurementRow, PolicyRow, VerdictRow
from feedback.db import connect, transact
from policies import gates
from policies.decide import decide
from policies.model import Evidence, Measurement, Phase, Snapshot
from policies.policy import Policy
from tests import fresh

TEXT = """
[drift]
cheap = ""
evidence = ""
[method]
allowed = ["echo"]
[gates.budget]
[gates.data]
[gates.proof]
minimum = {}
"""
POLICY = parse_policy(TEXT.format(2), "bot.toml")
STRICTER = parse_policy(TEXT.format(5), "bot.toml")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/learnd.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = connect(url)
    fresh.migrate(made)
    transact(made, _past)
    yield made
    made.dispose()


def _past(session: Session) -> None:
    for policy in (POLICY, STRICTER):
        session.add(PolicyRow(hash=policy.hash, deployment="bot", text=canonical(policy), loaded=0.0))
    for number, phase in enumerate(Phase):
        snapshot = Snapshot(1000.25 + number, "bot", "", phase, 900.0, head=12)
        session.add(_decision(snapshot))
    session.add(_cycle(1, POLICY))
    _evaluated(session, 1, "job1", POLICY)


def _decision(snapshot: Snapshot) -> Decision:
    action = decide(snapshot, POLICY)
    return Decision(
        slot=1,
        action=type(action).__name__,
        body=codec.action_to_json(action),
        reason=action.reason,
        snapshot=codec.snapshot_to_json(snapshot),
        policy_hash=POLICY.hash,
        at=snapshot.now,
        outcome="done",
    )


def _cycle(number: int, policy: Policy) -> Cycle:
    return Cycle(
        id=number,
        slot=1,
        trigger="volume",
        reason="",
        method="echo",
        step="candidate",
        window_first=0,
        window_last=9,
        seed=1,
        policy_hash=policy.hash,
        started=1.0,
    )


def _evaluated(session: Session, cycle: int, evaluation: str, *policies: Policy) -> None:
    found = [Measurement("proof", "proof", "distinct_prompts", "", "bot@2", 3.0)]
    found += [Measurement("data", "ancestry", name, "", "bot@2", 0.0) for name in ("unconsented", "erased")]
    for each in found:
        session.add(MeasurementRow(evaluation=evaluation, **{n: getattr(each, n) for n in Measurement.__slots__}))
    verdicts: tuple[gates.Verdict, ...] = ()
    for policy in policies:
        verdicts = gates.worst(
            verdicts, gates.judge_all(Evidence("bot@2", tuple(found)), Evidence("bot@1"), None, policy.gates)
        )
    for verdict in verdicts:
        session.add(
            VerdictRow(
                cycle=cycle,
                evaluation=evaluation,
                version="bot@2",
                champion="bot@1",
                anchor="bot@1",
                gate=verdict.gate,
                gate_version=verdict.gate_version,
                result=verdict.result.value,
                reason=verdict.reason,
                claims=codec.to_json(verdict.claims),
                policy_hash=policies[0].hash,
                at=2.0,
            )
        )


def again(engine: Engine) -> Replay:
    return replay(engine, parse_policy)


def count() -> tuple[int, int]:
    return len(Phase), len(gates.NAMES)


def test_an_untouched_past_comes_out_the_same(engine: Engine) -> None:
    decisions, verdicts = count()
    assert again(engine) == Replay(decisions, decisions, verdicts, verdicts, (), ())
    assert again(engine).ok


def test_a_touched_action_is_different_and_named(engine: Engine) -> None:
    def edit(session: Session) -> None:
        row = session.scalars(select(Decision).order_by(Decision.id)).first()
        assert row is not None
        row.body = {**row.body, "reason": "because I say so"}

    transact(engine, edit)
    found = again(engine)
    assert (found.same, len(found.different), found.ok) == (len(Phase) - 1, 1, False)
    assert (found.different[0].what, found.different[0].id) == ("decision", 1)


def test_a_touched_snapshot_changes_what_would_have_been_decided(engine: Engine) -> None:
    def edit(session: Session) -> None:
        row = session.get_one(Decision, 1)
        row.snapshot = {**row.snapshot, "phase": "watching"}

    transact(engine, edit)
    assert [each.id for each in again(engine).different] == [1]


def test_what_cannot_be_read_is_unreplayable_and_counted(engine: Engine) -> None:
    def edit(session: Session) -> None:
        session.get_one(Decision, 2).snapshot = {"phase": "idle"}
        session.get_one(Decision, 3).body = {"action": "Destroy"}
        session.get_one(Decision, 4).policy_hash = "0" * 64

    transact(engine, edit)
    found = again(engine)
    assert [each.id for each in found.unreplayable] == [2, 3, 4]
    assert found.decisions == len(Phase) == found.same + 3
    assert "was not kept" in found.unreplayable[2].now


def test_an_edited_policy_makes_its_decisions_and_verdicts_unreplayable(engine: Engine) -> None:
    def edit(session: Session) -> None:
        row = session.get_one(PolicyRow, POLICY.hash)
        row.text = row.text.replace('"minimum":2', '"minimum":1')

    transact(engine, edit)
    found = again(engine)
    assert (found.same, found.verdicts_same) == (0, 0)
    assert len(found.unreplayable) == sum(count())
    assert "does not have its hash" in found.unreplayable[0].now


def test_a_touched_verdict_and_a_touched_measurement_are_different(engine: Engine) -> None:
    def verdict(session: Session) -> None:
        row = session.scalars(select(VerdictRow).where(VerdictRow.gate == "safety")).one()
        row.result = "pass"

    transact(engine, verdict)
    assert [each.was.split()[0] for each in again(engine).different] == ["safety"]

    def measurement(session: Session) -> None:
        session.scalars(select(MeasurementRow).where(MeasurementRow.probe == "proof")).one().value = 0.0

    transact(engine, measurement)
    assert {each.was.split()[0] for each in again(engine).different} == {"safety", "proof"}


def test_a_verdict_of_an_older_gate_that_would_judge_otherwise_now_can_not_be_judged_again(engine: Engine) -> None:
    def older(session: Session) -> None:
        row = session.scalars(select(VerdictRow).where(VerdictRow.gate == "safety")).one()
        row.gate_version, row.result = 0, "pass"

    transact(engine, older)
    found = again(engine)
    assert (found.ok, found.different) == (False, ())
    assert [each.now for each in found.unreplayable] == ["version 0 of the gate is gone"]


def test_a_removed_verdict_is_missed(engine: Engine) -> None:
    transact(engine, lambda session: session.execute(delete(VerdictRow).where(VerdictRow.gate == "safety")) and None)
    found = again(engine)
    assert [each.was for each in found.different] == ["safety of bot@2: not stored"]
    assert (found.verdicts, found.verdicts_same) == (len(gates.NAMES), len(gates.NAMES) - 1)


def test_removed_measurements_make_verdicts_unreplayable(engine: Engine) -> None:
    transact(engine, lambda session: session.execute(delete(MeasurementRow)) and None)
    found = again(engine)
    assert found.verdicts_same == 0
    assert len(found.unreplayable) == len(gates.NAMES)


def test_a_candidate_is_judged_again_by_the_stricter_of_its_two_policies(engine: Engine) -> None:
    def second(session: Session) -> None:
        session.add(_cycle(2, STRICTER))
        _evaluated(session, 2, "job2", POLICY, STRICTER)

    transact(engine, second)
    assert again(engine).ok

    def loosened(session: Session) -> None:
        session.get_one(Cycle, 2).policy_hash = POLICY.hash

    transact(engine, loosened)
    assert [each.was.split()[0] for each in again(engine).different] == ["proof"]


def test_a_teacher_meets_the_gates_of_a_teacher(engine: Engine) -> None:
    def teacher(session: Session) -> None:
        session.get_one(Cycle, 1).teacher = "bot@2"
        kept = gates.TEACHER_NAMES
        session.execute(delete(VerdictRow).where(VerdictRow.gate.not_in(kept)))

    transact(engine, teacher)
    assert again(engine).ok
    assert again(engine).verdicts == len(gates.TEACHER_NAMES)


def test_the_recorded_hash_of_a_policy_stays_its_name() -> None:
    text = canonical(POLICY)
    assert hashlib.sha256(text.encode()).hexdigest() == POLICY.hash
    assert dataclasses.replace(parse_policy(text, "x"), hash="") == dataclasses.replace(POLICY, hash="")
