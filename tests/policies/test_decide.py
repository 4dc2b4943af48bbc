"""What follows from each phase, one sentence a test."""

from dataclasses import replace
from typing import Any

import pytest

from policies.actions import (
    Action,
    AskApproval,
    Cancel,
    Evaluate,
    Fail,
    Promote,
    Ramp,
    Reject,
    Rollback,
    Settle,
    Train,
    Wait,
    Watch,
)
from policies.decide import answer, decide, lacking
from policies.gates import regression, retention
from policies.method import choose
from policies.model import (
    Attempt,
    Mode,
    Outcome,
    Past,
    Phase,
    Result,
    SignalCounts,
    Snapshot,
    TeacherView,
)
from policies.policy import Drift, Method, Policy, Rollout, Triggers
from policies.triggers import false_alarm_chance
from tests.policies.worlds import (
    CANDIDATE,
    CHAMPION,
    CYCLE,
    HOUR,
    NOW,
    OPTIONS,
    POLICY,
    command,
    drift,
    job,
    judged,
    slot,
    verdicts,
    votes,
)

AUTO = replace(POLICY, mode=Mode.AUTO)
SHADOW = replace(POLICY, mode=Mode.SHADOW)
SPLIT = replace(AUTO, rollout=Rollout(steps=(0.1, 0.5, 1.0), dwell_hours=2))


def act(snapshot: Snapshot, policy: Policy = POLICY) -> Any:
    action: Action = decide(snapshot, policy)
    return action


class TestGathering:
    def test_lists_all_that_a_cold_start_lacks(self) -> None:
        bare = Snapshot(NOW, "bot", "", Phase.GATHERING, NOW, 0)
        missing = lacking(bare, POLICY)
        assert len(missing) == 7
        assert "0 of at least 100 usable records" in missing
        waiting = act(bare)
        assert isinstance(waiting, Wait)
        assert waiting.outcome is None
        assert all(sentence in waiting.reason for sentence in missing)

    def test_is_ready_when_nothing_is_missing(self) -> None:
        assert act(slot(Phase.GATHERING)).outcome is Outcome.READY

    def test_needs_no_anchor_set_when_retention_is_off_and_no_judge_records_when_improvement_is(self) -> None:
        off = replace(POLICY, gates={**OPTIONS, "retention": retention.Options(enabled=False)})
        sets = tuple(view for view in slot().sets if view.role != "anchor")
        assert lacking(slot(sets=sets), off) == ()
        assert len(lacking(slot(sets=sets), POLICY)) == 1

    def test_an_empty_window_after_a_promotion_is_no_lack(self) -> None:
        learned = slot(counts=SignalCounts(), past=Past(window_end=1000))
        assert lacking(learned, POLICY) == ()
        assert "0 of 1,000 usable records" in act(learned).reason

    def test_an_idle_slot_that_lost_what_it_needs_goes_back(self) -> None:
        assert act(slot(consent_set=False)).outcome is Outcome.LACKING

    def test_a_rollback_is_honoured_while_gathering(self) -> None:
        going = act(slot(Phase.GATHERING, sets=(), commands=(command("rollback"),)))
        assert isinstance(going, Rollback)


class TestIdle:
    def test_says_why_not_now_with_the_nearest_trigger(self) -> None:
        waiting = act(slot(drift=drift(drifted=False)))
        assert waiting.cause == "idle"
        assert waiting.reason == "412 of 1,000 usable records; no drift"

    def test_says_how_long_the_cooldown_lasts(self) -> None:
        waiting = act(slot(past=Past(last_ended=NOW - 20 * HOUR - 3000, last_outcome="settled")))
        assert "cooldown: 3 h 10 min left" in waiting.reason

    def test_enough_records_ask_for_an_update_of_the_whole_window(self) -> None:
        full = slot(counts=SignalCounts(corrections=1000, judge_references=60), past=Past(window_end=300))
        training = act(full)
        assert isinstance(training, Train)
        assert (training.trigger, training.method, training.step) == ("volume", "lora", "candidate")
        assert training.window == (300, 1000)
        assert training.seed == 11
        assert "1,000 usable records" in training.reason
        assert "LoRA update: 1 of 6 adapter updates stacked" in training.reason

    def test_confirmed_drift_asks_for_an_update(self) -> None:
        training = act(slot(drift=drift(detector="psi"), evidence_drift=drift()))
        assert (training.trigger, training.reason.split(";")[0]) == ("drift", "drift of inputs: psi of topic is 0.4")

    def test_suspected_drift_waits_for_the_evidence_detector(self) -> None:
        waiting = act(slot(drift=drift(detector="psi")))
        assert isinstance(waiting, Wait)
        assert "drift suspected by psi, not confirmed by columns" in waiting.reason

    @pytest.mark.parametrize("psi", [None, drift(detector="psi", drifted=False), drift(detector="psi", judged=False)])
    def test_evidence_without_an_alarm_asks_for_nothing(self, psi: Any) -> None:
        waiting = act(slot(drift=psi, evidence_drift=drift()))
        assert isinstance(waiting, Wait)
        if psi is not None and psi.judged:
            assert "drift seen by columns, not by psi, which holds the rate of false alarms" in waiting.reason

    @pytest.mark.parametrize(
        ("false_alarms", "seconds", "chance"),
        [(0.1, 60.0, 0.1 / 43_200), (0.1, 7 * 24 * HOUR, 0.7 / 30), (3.0, 15 * 24 * HOUR, 0.05)],
    )
    def test_the_looks_of_a_month_share_the_false_alarms_that_the_policy_accepts(
        self, false_alarms: float, seconds: float, chance: float
    ) -> None:
        assert false_alarm_chance(Drift(false_alarms=false_alarms), seconds) == pytest.approx(chance)

    def test_the_cheap_detector_is_enough_where_the_policy_names_no_other(self) -> None:
        assert isinstance(act(slot(drift=drift()), replace(POLICY, drift=replace(POLICY.drift, evidence=""))), Train)

    @pytest.mark.parametrize(
        "report",
        [
            drift(current=(100, 500)),
            drift(at=NOW - 2 * HOUR),
            drift(judged=False),
            drift(drifted=False),
        ],
    )
    def test_a_drift_that_was_answered_or_not_judged_asks_for_nothing(self, report: Any) -> None:
        past = Past(window_end=500, last_promoted=NOW - HOUR)
        assert isinstance(act(slot(drift=drift(detector="psi"), evidence_drift=report, past=past)), Wait)
        assert isinstance(act(slot(drift=report, evidence_drift=drift(), past=past)), Wait)

    def test_a_new_teacher_asks_for_a_re_distillation_which_begins_with_the_teacher(self) -> None:
        with_teacher = replace(POLICY, method=Method(teacher="teachers/2"))
        training = act(slot(teacher=TeacherView("teachers/2", "teachers/1")), with_teacher)
        assert (training.trigger, training.method, training.step) == ("teacher", "distill", "teacher")

    def test_a_new_teacher_is_learned_from_also_where_drift_asked_first(self) -> None:
        with_teacher = replace(POLICY, method=Method(teacher="teachers/2"))
        training = act(
            slot(teacher=TeacherView("teachers/2", "teachers/1"), drift=drift(), evidence_drift=drift()), with_teacher
        )
        assert (training.trigger, training.method) == ("drift", "distill")

    def test_a_due_schedule_asks_for_an_update(self) -> None:
        assert act(slot(schedule_due=True)).trigger == "schedule"

    def test_a_command_comes_first_and_no_cooldown_or_back_off_holds_it(self) -> None:
        past = Past(last_ended=NOW - 60, last_outcome="failed", failures=3)
        training = act(slot(commands=(command("train"),), evidence_drift=drift(), past=past))
        assert (training.trigger, training.command) == ("command", 5)

    @pytest.mark.parametrize(
        ("changes", "cause", "words"),
        [
            ({"past": Past(last_ended=NOW - HOUR, last_outcome="settled")}, "cooldown", "23 h left"),
            ({"past": Past(last_ended=NOW - HOUR, failures=3)}, "backoff", "3 failures in a row: 3 h until"),
            ({"past": Past(last_ended=NOW - HOUR, failures=9999)}, "backoff", "6 d 23 h"),
            ({"past": Past(tries=3)}, "tries", "3 candidates came of this window"),
            ({"past": Past(spent_seconds=41 * HOUR)}, "budget", "1 d 17 h of 1 d 16 h"),
            (
                {"counts": SignalCounts(corrections=99, judge_references=60), "past": Past(window_end=1)},
                "records",
                "99",
            ),
            ({"counts": SignalCounts(corrections=400, judge_references=19)}, "judge", "19 judge records"),
            ({"head": 500, "past": Past(window_end=500)}, "records", "412"),
            ({"granted": False, "not_granted": "the accelerator is with other (learning)"}, "gpu", "with other"),
        ],
    )
    def test_what_holds_an_update_back_is_the_reason(self, changes: dict[str, Any], cause: str, words: str) -> None:
        waiting = act(slot(schedule_due=True, **changes))
        assert isinstance(waiting, Wait)
        assert waiting.cause == cause
        assert words in waiting.reason

    def test_a_pause_holds_learning_and_a_rollback_beats_it(self) -> None:
        paused = slot(paused_by="ada", evidence_drift=drift())
        assert act(paused).cause == "paused"
        back = act(replace(paused, commands=(command("rollback"),)))
        assert isinstance(back, Rollback)
        assert (back.to, back.command) == ("bot@before", 5)
        named = act(replace(paused, commands=(command("rollback", "bot@older"),)))
        assert named.to == "bot@older"

    def test_without_an_allowed_method_nothing_is_trained(self) -> None:
        waiting = act(slot(schedule_due=True), replace(POLICY, method=Method(allowed=())))
        assert waiting.cause == "method"
        assert "the policy allows no method" in waiting.reason


class TestMethod:
    @pytest.mark.parametrize(
        ("allowed", "teacher", "changes", "expected"),
        [
            (("lora", "distill"), "", {}, "lora"),
            (("lora", "distill"), "t", {}, "lora"),
            (("lora", "distill"), "t", {"teacher": TeacherView("t", "s")}, "distill"),
            (("lora",), "t", {"teacher": TeacherView("t", "s")}, "lora"),
            (("lora", "distill"), "self", {"teacher": TeacherView("self", "self", age=91 * 24 * HOUR)}, "distill"),
            (("lora", "distill"), "t", {"evidence_drift": drift("both")}, "distill"),
            (("lora", "distill"), "", {"evidence_drift": drift("both")}, "lora"),
            (("lora", "distill"), "t", {"champion": replace(CHAMPION, depth=6)}, "distill"),
            (("lora",), "t", {"champion": replace(CHAMPION, depth=6)}, "lora"),
            (("distill",), "t", {}, "distill"),
            (("distill",), "", {}, "nothing"),
            (("lora", "echo"), "", {}, "lora"),
            (("full", "lora"), "", {}, "full"),
            (("lora", "full"), "", {}, "lora"),
            (("lora", "full"), "", {"champion": replace(CHAMPION, depth=6)}, "full"),
            (("lora", "full", "distill"), "t", {"champion": replace(CHAMPION, depth=6)}, "distill"),
            (("echo",), "", {}, "echo"),
            ((), "", {}, "nothing"),
        ],
    )
    def test_is_chosen_by_what_the_slot_needs_of_those_allowed(
        self, allowed: tuple[str, ...], teacher: str, changes: dict[str, Any], expected: str
    ) -> None:
        policy = replace(POLICY, method=Method(allowed=allowed, teacher=teacher))
        choice = choose(slot(**{"teacher": TeacherView(teacher, teacher), **changes}), policy)
        assert choice.method == expected
        assert choice.reason

    def test_says_why_not_the_dearer_one(self) -> None:
        stacked = slot(champion=replace(CHAMPION, depth=9))
        reason = choose(stacked, POLICY).reason
        assert "9 adapter updates are stacked, 6 are allowed, but the policy names no teacher" in reason


TRAINING = slot(Phase.TRAINING, cycle=replace(CYCLE, candidate=""))


class TestTraining:
    def test_waits_for_its_job_and_tells_how_far_it_is(self) -> None:
        waiting = act(replace(TRAINING, job=job("running", progress="step 40 of 100")))
        assert waiting.reason == "training: step 40 of 100; 1 min"

    def test_a_late_job_fails_the_cycle(self) -> None:
        assert isinstance(act(replace(TRAINING, job=job("running", deadline=NOW - 1))), Fail)

    def test_a_lost_job_is_started_again_as_it_was_and_not_forever(self) -> None:
        again = act(replace(TRAINING, job=job("absent")))
        assert isinstance(again, Train)
        assert (again.window, again.seed, again.step, again.method) == ((100, 900), 7, "candidate", "lora")
        tired = replace(TRAINING, job=job("absent"), cycle=replace(CYCLE, losses=2))
        assert isinstance(act(tired), Fail)

    def test_a_passing_error_is_a_loss_and_any_other_fails(self) -> None:
        away = job("failed", error="the disk is full", error_kind="Transient")
        assert isinstance(act(replace(TRAINING, job=away)), Train)
        broken = act(replace(TRAINING, job=replace(away, error_kind="Refused")))
        assert isinstance(broken, Fail)
        assert "the disk is full" in broken.reason

    def test_a_finished_job_is_evaluated(self) -> None:
        assert isinstance(act(replace(TRAINING, job=job("done"))), Evaluate)

    def test_a_rollback_cancels_first_and_stays_open(self) -> None:
        cancel = act(replace(TRAINING, job=job("running"), commands=(command("rollback"),)))
        assert isinstance(cancel, Cancel)
        assert cancel.command == 0

    def test_a_rejection_cancels_and_is_answered(self) -> None:
        cancel = act(replace(TRAINING, job=job("running"), commands=(command("reject"),)))
        assert isinstance(cancel, Cancel)
        assert cancel.command == 5


class TestEvaluating:
    @pytest.mark.parametrize(
        ("found", "expected"),
        [
            (None, Evaluate),
            (job("done"), Evaluate),
            (job("absent"), Evaluate),
            (job("running"), Wait),
            (job("running", deadline=NOW - 1), Fail),
            (job("failed", error_kind="Refused"), Fail),
            (job("failed", error_kind="Transient"), Evaluate),
        ],
    )
    def test_takes_the_next_step_until_every_verdict_is_there(self, found: Any, expected: type) -> None:
        unjudged = judged(verdicts=(), verdicts_complete=False, judged_under="", job=found)
        assert isinstance(act(unjudged), expected)

    def test_gives_up_after_too_many_losses(self) -> None:
        lost = judged(verdicts=(), verdicts_complete=False, job=job("absent"), cycle=replace(CYCLE, losses=2))
        assert isinstance(act(lost), Fail)

    def test_a_changed_policy_judges_again(self) -> None:
        assert isinstance(act(judged(judged_under="p0"), AUTO), Evaluate)

    @pytest.mark.parametrize("gate", OPTIONS)
    @pytest.mark.parametrize("policy", [AUTO, SHADOW, POLICY], ids=lambda p: p.mode)
    def test_one_gate_that_fails_rejects_in_every_mode(self, gate: str, policy: Policy) -> None:
        rejected = act(judged(verdicts=verdicts(**{gate: Result.FAIL})), policy)
        assert isinstance(rejected, Reject)
        assert (rejected.kind, rejected.refused_by) == ("refused", (gate,))
        assert rejected.reason == f"refused by {gate} ({gate}: {gate} says so)"

    def test_all_that_refuse_are_named(self) -> None:
        rejected = act(judged(verdicts=verdicts(safety=Result.FAIL, data=Result.FAIL, proof=Result.INCONCLUSIVE)))
        assert rejected.refused_by == ("safety", "data")

    @pytest.mark.parametrize("gate", OPTIONS)
    def test_one_gate_that_can_not_tell_rejects_as_inconclusive(self, gate: str) -> None:
        rejected = act(judged(verdicts=verdicts(**{gate: Result.INCONCLUSIVE})), AUTO)
        assert (rejected.kind, rejected.refused_by) == ("inconclusive", (gate,))

    @pytest.mark.parametrize("gate", OPTIONS)
    def test_a_gate_without_a_verdict_refuses_although_the_verdicts_are_called_complete(self, gate: str) -> None:
        left = tuple(verdict for verdict in verdicts() if verdict.gate != gate)
        rejected = act(judged(verdicts=left), AUTO)
        assert (rejected.kind, rejected.refused_by) == ("refused", (gate,))

    def test_an_approval_never_overrides_a_gate(self) -> None:
        for verb in ("promote", "approve"):
            wished = judged(verdicts=verdicts(safety=Result.FAIL), commands=(command(verb),))
            assert isinstance(act(wished, AUTO), Reject)

    def test_the_mode_says_what_a_passing_candidate_becomes(self) -> None:
        assert isinstance(act(judged(), POLICY), AskApproval)
        shadow = act(judged(), SHADOW)
        assert (shadow.kind, shadow.reason.split(",")[0]) == ("shadow", f"shadow: would have promoted {CANDIDATE.name}")
        promoted = act(judged(), AUTO)
        assert isinstance(promoted, Promote)
        assert (promoted.version, promoted.share, promoted.command) == (CANDIDATE.name, 1.0, 0)

    def test_a_promote_command_is_an_approval_in_shadow_too(self) -> None:
        promoted = act(judged(commands=(command("promote"),)), SHADOW)
        assert isinstance(promoted, Promote)
        assert promoted.command == 5

    def test_a_pause_holds_the_promotion(self) -> None:
        assert act(judged(paused_by="ada"), AUTO).cause == "paused"

    def test_a_target_that_splits_begins_with_the_first_share(self) -> None:
        assert act(judged(target_splits=True), SPLIT).share == 0.1
        assert act(judged(target_splits=False), SPLIT).share == 1.0

    def test_a_teacher_that_passed_its_gates_teaches(self) -> None:
        four = tuple(v for v in verdicts() if v.gate in {"safety", "regression", "retention", "data"})
        cycle = replace(CYCLE, step="teacher", method="distill")
        training = act(judged(cycle=cycle, verdicts=four), AUTO)
        assert isinstance(training, Train)
        assert (training.step, training.method, training.window) == ("candidate", "distill", (100, 900))

    def test_a_teacher_that_was_refused_ends_the_cycle(self) -> None:
        cycle = replace(CYCLE, step="teacher", method="distill")
        rejected = act(judged(cycle=cycle, verdicts=verdicts(safety=Result.FAIL)), AUTO)
        assert isinstance(rejected, Reject)
        assert "the teacher was refused by safety" in rejected.reason


class TestApproving:
    def test_waits_for_a_person_and_says_how_long(self) -> None:
        waiting = act(judged(Phase.APPROVING))
        assert (waiting.cause, "6 d 23 h left" in waiting.reason) == ("approval", True)

    @pytest.mark.parametrize("verb", ["approve", "promote"])
    def test_an_approval_promotes(self, verb: str) -> None:
        promoted = act(judged(Phase.APPROVING, commands=(command(verb),)))
        assert isinstance(promoted, Promote)
        assert promoted.command == 5

    def test_an_approval_of_what_no_longer_passes_does_not(self) -> None:
        spoiled = judged(Phase.APPROVING, commands=(command("approve"),), verdicts=verdicts(data=Result.FAIL))
        assert isinstance(act(spoiled), Reject)

    def test_a_rejection_and_an_expiry_end_the_cycle(self) -> None:
        assert act(judged(Phase.APPROVING, commands=(command("reject"),))).kind == "person"
        old = judged(Phase.APPROVING, cycle=replace(CYCLE, asked_at=NOW - 200 * HOUR), commands=(command("approve"),))
        assert act(old).kind == "expired"

    def test_a_changed_policy_judges_again_before_anybody_approves(self) -> None:
        changed = judged(Phase.APPROVING, judged_under="p0", commands=(command("approve"),))
        assert isinstance(act(changed), Evaluate)

    def test_a_rollback_cancels_first(self) -> None:
        assert isinstance(act(judged(Phase.APPROVING, commands=(command("rollback"),))), Cancel)


class TestPromoting:
    def test_waits_for_the_proof_and_then_goes_on(self) -> None:
        assert isinstance(act(judged(Phase.PROMOTING, job=job("running", "prove"))), Wait)
        assert isinstance(act(judged(Phase.PROMOTING, job=job("done", "prove"))), Promote)

    def test_goes_back_to_the_champion_after_too_many_attempts(self) -> None:
        tried = judged(Phase.PROMOTING, attempt=Attempt("Promote", 3, NOW, "no route to the target"))
        back = act(tried)
        assert isinstance(back, Rollback)
        assert back.to == CHAMPION.name
        assert "no route to the target" in back.reason

    def test_waits_between_two_attempts(self) -> None:
        waiting = act(judged(Phase.PROMOTING, attempt=Attempt("Promote", 1, NOW - 10, "no route")))
        assert (waiting.cause, "tried once: no route; again in 20 s" in waiting.reason) == ("retry", True)
        assert isinstance(act(judged(Phase.PROMOTING, attempt=Attempt("Promote", 1, NOW - 30))), Promote)

    def test_a_rollback_returns_to_the_champion_which_never_stopped_being_one(self) -> None:
        back = act(judged(Phase.PROMOTING, commands=(command("rollback"),)))
        assert (back.to, back.command) == (CHAMPION.name, 5)

    def test_a_rollback_to_an_older_version_stays_open_for_the_idle_slot(self) -> None:
        back = act(judged(Phase.PROMOTING, commands=(command("rollback", "bot@older"),)))
        assert (back.to, back.command) == (CHAMPION.name, 0)

    def test_a_rollback_once_begun_never_turns_into_a_promotion_again(self) -> None:
        for changes in ({"attempt": Attempt("Rollback", 1, NOW - HOUR, "away")}, {"rolling_back_to": CHAMPION.name}):
            assert isinstance(act(judged(Phase.PROMOTING, **changes)), Rollback)


SERVING = {"champion": CANDIDATE, "predecessor": CHAMPION.name}


class TestRamping:
    def test_dwells_on_each_share_and_goes_on(self) -> None:
        fresh = judged(Phase.RAMPING, **SERVING, ramp_since=NOW - HOUR)
        assert "10 % of the traffic; the next step in 1 h" in act(fresh, SPLIT).reason
        ramp = act(replace(fresh, ramp_since=NOW - 2 * HOUR), SPLIT)
        assert isinstance(ramp, Ramp)
        assert (ramp.share, ramp.step) == (0.5, 1)
        last = act(replace(fresh, ramp_since=NOW - 2 * HOUR, ramp_step=1), SPLIT)
        assert (last.share, last.step) == (1.0, 2)

    def test_a_regression_or_a_command_rolls_back_and_a_pause_holds(self) -> None:
        bad = judged(Phase.RAMPING, **SERVING, watch=votes(20, 60), paused_by="ada")
        back = act(bad, SPLIT)
        assert (back.to, isinstance(back, Rollback)) == (CHAMPION.name, True)
        assert act(judged(Phase.RAMPING, **SERVING, paused_by="ada"), SPLIT).cause == "paused"
        assert isinstance(act(judged(Phase.RAMPING, **SERVING, commands=(command("rollback"),)), SPLIT), Rollback)


class TestWatching:
    def test_tells_how_many_ratings_there_are(self) -> None:
        watching = act(judged(Phase.WATCHING, **SERVING, watch=votes(56, 61)))
        assert isinstance(watching, Watch)
        assert watching.reason.startswith("watching: 61 ratings of the new version, 92 % good")

    def test_a_proven_regression_rolls_back_by_itself_also_when_paused(self) -> None:
        back = act(judged(Phase.WATCHING, **SERVING, watch=votes(20, 60), paused_by="ada"))
        assert isinstance(back, Rollback)
        assert back.to == CHAMPION.name
        assert back.reason.startswith("proven worse: 33 % of 60 ratings good, 90 % of 300 before")

    def test_a_proven_version_settles_and_a_deadline_ends_unproven(self) -> None:
        late = {"phase_since": NOW - 80 * HOUR}
        proven = act(judged(Phase.WATCHING, **SERVING, watch=replace(votes(1900, 2000, 1800, 2000), promoted_at=0.0)))
        assert (isinstance(proven, Settle), proven.proven) == (True, True)
        unproven = act(judged(Phase.WATCHING, **SERVING, **late, watch=None))
        assert (isinstance(unproven, Settle), unproven.proven) == (True, False)

    def test_a_command_rolls_back_to_the_one_before_or_to_any_other(self) -> None:
        assert act(judged(Phase.WATCHING, **SERVING, commands=(command("rollback"),))).to == CHAMPION.name
        assert act(judged(Phase.WATCHING, **SERVING, commands=(command("rollback", "bot@x"),))).to == "bot@x"


class TestRollingBack:
    def test_tries_on_with_growing_patience_and_never_gives_up(self) -> None:
        failing = judged(Phase.ROLLING_BACK, rolling_back_to=CHAMPION.name, paused_by="ada")
        for count, delay in ((1, 30), (2, 60), (5, 480), (6, 900), (5000, 900)):
            attempt = Attempt("Rollback", count, NOW - delay + 1, "away")
            assert isinstance(act(replace(failing, attempt=attempt)), Wait)
            back = act(replace(failing, attempt=replace(attempt, last=NOW - delay)))
            assert isinstance(back, Rollback)
            assert back.to == CHAMPION.name

    def test_knows_where_to_go_without_being_told(self) -> None:
        assert act(judged(Phase.ROLLING_BACK)).to == CHAMPION.name
        assert act(judged(Phase.ROLLING_BACK, **SERVING)).to == CHAMPION.name

    def test_a_person_can_name_another_version(self) -> None:
        other = judged(Phase.ROLLING_BACK, rolling_back_to="bot@gone", commands=(command("rollback", "bot@fine"),))
        assert act(other).to == "bot@fine"


class TestAnswers:
    @pytest.mark.parametrize(
        ("verb", "version", "snapshot", "words"),
        [
            ("approve", "", slot(), "nothing waits for an approval"),
            ("approve", "", judged(), "nothing waits for an approval"),
            ("approve", "bot@other", judged(Phase.APPROVING), "bot@other is not the candidate: bot@candidate is"),
            ("promote", "", slot(), "no candidate is under evaluation"),
            ("promote", "", judged(Phase.APPROVING, paused_by="bob"), "paused by bob: resume first"),
            ("reject", "", slot(), "there is no candidate to reject"),
            ("reject", "", judged(Phase.WATCHING, **SERVING), "it serves already: use rollback"),
            ("rollback", "", slot(predecessor=""), "there is no version to go back to"),
            ("rollback", CHAMPION.name, slot(), "is what serves already"),
            ("rollback", "", replace(TRAINING, predecessor=""), "there is no version to go back to"),
            ("train", "", slot(Phase.GATHERING), "still gathering"),
            ("train", "", judged(Phase.WATCHING), "a cycle is running (watching)"),
            ("train", "", slot(paused_by="bob"), "paused by bob"),
            ("train", "", slot(counts=SignalCounts(), past=Past(window_end=9)), "0 usable records"),
            ("pause", "", slot(paused_by="bob"), "already paused by bob"),
            ("resume", "", slot(), "nothing is paused"),
            ("dance", "", slot(), "there is no command 'dance'"),
        ],
    )
    def test_a_command_that_can_not_be_done_is_told_why(
        self, verb: str, version: str, snapshot: Snapshot, words: str
    ) -> None:
        assert words in (answer(command(verb, version), snapshot, POLICY) or "")

    @pytest.mark.parametrize(
        ("verb", "snapshot"),
        [
            ("approve", judged(Phase.APPROVING)),
            ("promote", judged()),
            ("reject", TRAINING),
            ("reject", judged(Phase.APPROVING)),
            ("rollback", slot()),
            ("rollback", slot(paused_by="bob")),
            ("rollback", judged(Phase.PROMOTING, predecessor="")),
            ("rollback", judged(Phase.WATCHING, **SERVING)),
            ("train", slot()),
            ("pause", slot()),
            ("resume", slot(paused_by="bob")),
        ],
    )
    def test_a_command_that_can_be_done_is_not_refused(self, verb: str, snapshot: Snapshot) -> None:
        assert answer(command(verb), snapshot, POLICY) is None

    def test_a_train_command_waits_for_what_passes_by_itself(self) -> None:
        busy = slot(granted=False, past=Past(last_ended=NOW - 60), commands=(command("train"),))
        assert answer(command("train"), busy, POLICY) is None
        assert act(busy).cause == "gpu"


def test_a_switched_off_gate_still_needs_its_verdict() -> None:
    off = replace(AUTO, gates={**OPTIONS, "regression": regression.Options(enabled=False)})
    left = tuple(verdict for verdict in verdicts() if verdict.gate != "regression")
    assert isinstance(act(judged(verdicts=left), off), Reject)


def test_the_triggers_can_be_switched_off() -> None:
    calm = replace(POLICY, triggers=Triggers(volume=0, drift=False, teacher=False))
    busy = slot(evidence_drift=drift(), teacher=TeacherView("b", "a"), counts=SignalCounts(9999, judge_references=99))
    assert act(busy, calm).reason == "9,999 usable records; drift asks for nothing here"
