"""The laws of the core over the product of states: total, safe, and no edge of the table is dead."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.actions import Action, Cancel, Evaluate, Fail, Promote, Ramp, Rollback, Settle, Train, Wait, Watch
from policies.commands import VERBS
from policies.decide import answer, decide
from policies.errors import Corrupt
from policies.gates import NAMES, TEACHER_NAMES
from policies.lifecycle import ANSWERS, TABLE, advance, diagram
from policies.model import (
    Attempt,
    Experience,
    Mode,
    Outcome,
    Past,
    Phase,
    Result,
    SignalCounts,
    Snapshot,
    TeacherView,
    Usage,
    Verdict,
)
from policies.policy import Costs, Policy, Rollout
from tests.policies.worlds import (
    CANDIDATE,
    CHAMPION,
    CYCLE,
    NOW,
    POLICY,
    command,
    drift,
    job,
    slot,
    verdicts,
    votes,
)

CYCLES = (None, CYCLE, replace(CYCLE, step="teacher", method="distill", losses=2), replace(CYCLE, candidate=""))
JOBS = (
    None,
    job("running"),
    job("running", "prove", deadline=NOW - 1),
    job("done"),
    job("absent"),
    job("failed", error_kind="Transient"),
    job("exploded"),
)
JUDGED: tuple[tuple[tuple[Verdict, ...], bool, str], ...] = (
    ((), False, ""),
    ((), True, "p1"),
    (verdicts(), True, "p1"),
    (verdicts(), True, "p0"),
    (verdicts(budget=Result.FAIL), True, "p1"),
    (verdicts(proof=Result.INCONCLUSIVE), True, "p1"),
    (verdicts()[1:], True, "p1"),
)
COMMANDS = ((), *((command(verb),) for verb in ("train", "approve", "reject", "promote", "rollback")))
SERVED = ((None, ""), (CHAMPION, "bot@before"), (CANDIDATE, CHAMPION.name))
POLICIES = tuple(
    replace(POLICY, mode=mode, rollout=Rollout(steps=(0.2, 1.0), dwell_hours=0.1)) for mode in (Mode.AUTO, Mode.APPROVE)
)
SHADOW = replace(POLICY, mode=Mode.SHADOW)
WEIGHING = replace(SHADOW, costs=Costs(gpu_hour=1.0, worth=1.0))


def states() -> Iterator[tuple[Snapshot, Policy]]:
    """The product of what can be told apart, also of what should never meet."""
    for phase, cycle, found, (given_verdicts, complete, under), commands, (champion, before) in product(
        Phase, CYCLES, JOBS, JUDGED, COMMANDS, SERVED
    ):
        snapshot = slot(
            phase,
            cycle=cycle,
            job=found,
            verdicts=given_verdicts,
            verdicts_complete=complete,
            judged_under=under,
            commands=commands,
            champion=champion,
            predecessor=before,
        )
        yield snapshot, POLICIES[len(commands) % 2]


def corners() -> Iterator[tuple[Snapshot, Policy]]:
    """What the product leaves out: triggers, watches, pauses, failed attempts, shadow."""
    ready = slot(schedule_due=True)
    for phase in Phase:
        whole = slot(phase, cycle=CYCLE, verdicts=verdicts(), verdicts_complete=True, judged_under="p1")
        served = replace(whole, champion=CANDIDATE, predecessor=CHAMPION.name)
        for policy, paused in product((*POLICIES, SHADOW), ("", "ada")):
            yield replace(whole, paused_by=paused, target_splits=True), policy
            yield replace(ready, phase=phase, paused_by=paused), policy
            yield replace(ready, phase=phase, sets=(), paused_by=paused), policy
            for live in (None, votes(0, 0), votes(20, 60), replace(votes(1900, 2000, 1800, 2000), promoted_at=0.0)):
                for since in (NOW - 60, 0.0):
                    yield replace(served, watch=live, paused_by=paused, phase_since=since), policy
            for name, count in product(("", "Promote", "Rollback", "Train"), (1, 9)):
                tried = Attempt(name, count, NOW - 20, "away")
                yield replace(whole, attempt=tried, paused_by=paused), policy
                yield replace(ready, phase=phase, attempt=tried, granted=False), policy


@cache
def decided() -> tuple[tuple[Snapshot, Policy, Action], ...]:
    """Every state with its policy and what is decided in it."""
    return tuple((snapshot, policy, decide(snapshot, policy)) for snapshot, policy in (*states(), *corners()))


def outcomes(action: Action) -> frozenset[Outcome]:
    """All that the world may answer to an action."""
    if isinstance(action, Wait):
        return frozenset() if action.outcome is None else frozenset({action.outcome})
    return ANSWERS.get(type(action).__name__, frozenset())


def may_follow(phase: Phase, action: Action, outcome: Outcome) -> bool:
    """A first evaluation is started, not judged: there is nothing to judge yet."""
    return not (phase is Phase.TRAINING and isinstance(action, Evaluate) and outcome is Outcome.JUDGED)


def check(snapshot: Snapshot, policy: Policy, action: Action) -> None:
    """Every law that one decision must keep."""
    assert isinstance(action, get_args(Action))
    assert action.reason.strip()
    for outcome in outcomes(action):
        assert not may_follow(snapshot.phase, action, outcome) or isinstance(advance(snapshot.phase, outcome), Phase)
    if isinstance(action, Train):
        assert snapshot.job is None or snapshot.job.state != "running", "one job a slot"
        assert snapshot.granted
        assert not snapshot.paused_by
    if isinstance(action, Promote):
        check_promotion(snapshot, policy, action)
    if isinstance(action, Ramp):
        assert snapshot.phase is Phase.RAMPING
        assert not snapshot.paused_by
    if isinstance(action, Settle | Watch):
        assert snapshot.phase is Phase.WATCHING
    if isinstance(action, Rollback):
        assert action.to
        assert snapshot.cycle is None or action.to != snapshot.cycle.candidate


def check_promotion(snapshot: Snapshot, policy: Policy, action: Promote) -> None:
    assert snapshot.cycle is not None
    assert action.version == snapshot.cycle.candidate
    if snapshot.phase is Phase.PROMOTING:
        return
    assert snapshot.phase in {Phase.EVALUATING, Phase.APPROVING}
    assert snapshot.verdicts_complete
    assert snapshot.judged_under == policy.hash
    assert {v.gate for v in snapshot.verdicts} >= set(NAMES)
    assert all(v.result is Result.PASS for v in snapshot.verdicts)
    assert not snapshot.paused_by
    approved = any(c.verb in {"approve", "promote"} for c in snapshot.commands)
    assert policy.mode is Mode.AUTO or approved
    assert action.command != 0 or policy.mode is Mode.AUTO


def test_decide_is_total_and_safe_over_the_product_of_states() -> None:
    for snapshot, policy, action in decided():
        check(snapshot, policy, action)


def test_no_edge_of_the_table_is_dead_and_none_is_missing() -> None:
    walked: set[tuple[Phase, Outcome]] = set()
    for snapshot, _, action in decided():
        walked |= {(snapshot.phase, o) for o in outcomes(action) if may_follow(snapshot.phase, action, o)}
    assert walked == set(TABLE)


def test_every_phase_can_be_entered_and_left() -> None:
    for phase in Phase:
        assert any(start is phase and end is not phase for (start, _), end in TABLE.items())
        assert any(end is phase and start is not phase for (start, _), end in TABLE.items())


def test_a_move_that_the_table_does_not_have_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="no move from idle on promoted"):
        advance(Phase.IDLE, Outcome.PROMOTED)


def test_the_diagram_shows_every_move_between_phases() -> None:
    text = diagram()
    for (start, outcome), end in TABLE.items():
        if start is not end:
            line = next(line for line in text.splitlines() if line.startswith(f"    {start.value} --> {end.value}:"))
            assert outcome.value in line


def test_a_rollback_that_can_be_done_is_never_held_by_a_pause() -> None:
    running = {Phase.TRAINING, Phase.EVALUATING, Phase.APPROVING}
    for snapshot, policy in states():
        if not snapshot.commands or snapshot.commands[0].verb != "rollback" or snapshot.champion is None:
            continue
        if answer(snapshot.commands[0], snapshot, policy) is not None:
            continue
        action = decide(replace(snapshot, paused_by="ada"), policy)
        wanted = (Cancel, Fail) if snapshot.phase in running else (Rollback,)
        assert isinstance(action, wanted), (snapshot.phase, action)


def test_a_teacher_is_only_taught_from_when_it_passed_its_own_gates() -> None:
    for snapshot, _, action in decided():
        cycle = snapshot.cycle
        if snapshot.phase is Phase.EVALUATING and isinstance(action, Train):
            assert cycle is not None
            assert cycle.step == "teacher"
            passed = {v.gate for v in snapshot.verdicts if v.result is Result.PASS}
            assert passed >= set(TEACHER_NAMES)


def test_an_approval_changes_nothing_for_a_candidate_that_has_not_passed() -> None:
    for snapshot, policy, _ in decided():
        refused = snapshot.verdicts_complete and any(v.result is not Result.PASS for v in snapshot.verdicts)
        if refused and snapshot.phase in {Phase.EVALUATING, Phase.APPROVING}:
            for verb in ("approve", "promote"):
                wished = decide(replace(snapshot, commands=(command(verb),)), policy)
                assert not isinstance(wished, Promote)


numbers = st.integers(-5, 10_000)
moments = st.floats(-1e9, 1e10)
SNAPSHOTS = st.builds(
    slot,
    st.sampled_from(Phase),
    now=moments,
    phase_since=moments,
    head=numbers,
    champion=st.sampled_from((None, CHAMPION, CANDIDATE)),
    predecessor=st.sampled_from(("", CHAMPION.name)),
    rolling_back_to=st.sampled_from(("", CHAMPION.name)),
    paused_by=st.sampled_from(("", "ada")),
    consent_set=st.booleans(),
    counts=st.builds(SignalCounts, numbers, numbers, numbers, numbers, numbers),
    judge_total=numbers,
    drift=st.sampled_from((None, drift(), drift("both"))),
    evidence_drift=st.sampled_from((None, drift(), drift("both"), drift(judged=False))),
    schedule_due=st.booleans(),
    teacher=st.builds(TeacherView, st.sampled_from(("", "self", "t")), st.sampled_from(("", "self")), moments),
    past=st.builds(Past, moments, st.text(max_size=3), numbers, numbers, numbers, moments, moments),
    cycle=st.sampled_from(CYCLES),
    candidate=st.sampled_from((None, CANDIDATE)),
    job=st.sampled_from(JOBS),
    verdicts=st.lists(st.sampled_from(verdicts() + verdicts(safety=Result.FAIL)), max_size=9).map(tuple),
    verdicts_complete=st.booleans(),
    judged_under=st.sampled_from(("", "p0", "p1")),
    commands=st.lists(st.builds(command, st.sampled_from((*VERBS, "dance"))), max_size=3).map(tuple),
    watch=st.sampled_from((None, votes(0, 0), votes(20, 60))),
    ramp_step=numbers,
    ramp_since=moments,
    target_splits=st.booleans(),
    attempt=st.builds(Attempt, st.sampled_from(("", "Rollback", "Promote")), numbers, moments, st.text(max_size=3)),
    granted=st.booleans(),
    seed=numbers,
    experience=st.sampled_from(((), (Experience("lora", 1, Usage(60.0, gpu_seconds=60.0), 0.0),))),
)


@settings(max_examples=150, deadline=None)
@given(SNAPSHOTS, st.sampled_from((*POLICIES, SHADOW, WEIGHING)))
def test_decide_answers_the_same_to_any_snapshot_and_never_raises(snapshot: Snapshot, policy: Policy) -> None:
    action = decide(snapshot, policy)
    assert action == decide(snapshot, policy)
    check(snapshot, policy, action)
    for wish in snapshot.commands:
        assert answer(wish, snapshot, policy) != ""
