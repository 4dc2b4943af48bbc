"""Who gets the accelerator, what a training set is mixed of, what the sets can prove, and how numbers read."""

from dataclasses import replace

import pytest

from policies import words
from policies.actions import Evaluate, Promote, Rollback, Train, Wait
from policies.gates import regression, retention, safety
from policies.ledger import Share, charged
from policies.mixture import quotas
from policies.model import SetView
from policies.policy import MixtureShares
from policies.power import power
from policies.schedule import Resources, Want, grant, kind
from tests.policies.worlds import OPTIONS


class TestSchedule:
    def test_proof_comes_before_evaluation_before_learning(self) -> None:
        wants = [Want("a", "learning"), Want("b", "evaluation", served=9.0), Want("c", "proof", served=99.0)]
        assert [g.slot for g in grant(wants, Resources(1)) if g.granted] == ["c"]
        assert [g.slot for g in grant(wants, Resources(2)) if g.granted] == ["c", "b"]

    def test_of_equals_the_least_served_comes_first(self) -> None:
        wants = [Want("a", "learning", 50.0), Want("b", "learning", 10.0), Want("c", "learning", 10.0, since=-1.0)]
        assert [g.slot for g in grant(wants, Resources(1)) if g.granted] == ["c"]

    def test_what_runs_keeps_its_place_and_the_others_are_told_who_has_it(self) -> None:
        answers = {g.slot: g for g in grant([Want("a", "learning", running=True), Want("b", "proof")], Resources(1))}
        assert answers["a"].granted
        assert answers["b"].reason == "the accelerator is with a (learning)"

    def test_a_rollback_never_waits(self) -> None:
        wants = [Want("a", "learning", running=True), Want("b", "rollback")]
        assert all(g.granted for g in grant(wants, Resources(1)))
        assert all(g.granted for g in grant(wants, Resources(0, "no GPU is there")))

    def test_without_a_device_everybody_is_told_so(self) -> None:
        (answer,) = grant([Want("a", "learning")], Resources(1, absent="no GPU is there"))
        assert (answer.granted, answer.reason) == (False, "no GPU is there")

    def test_an_action_says_what_it_wants(self) -> None:
        train = Train("r", "volume", "lora", "candidate", (0, 1), quotas(1, MixtureShares(), 1), 1)
        actions = (Rollback("r", "v"), Promote("r", "v"), Evaluate("r"), train, Wait("r", "idle"))
        assert [kind(action) for action in actions] == ["rollback", "proof", "evaluation", "learning", ""]


class TestMixture:
    def test_half_replay_is_as_many_old_as_new(self) -> None:
        mixture = quotas(300, MixtureShares(replay=0.5), 7)
        assert (mixture.new, mixture.replay, mixture.anchor, mixture.seed) == (300, 300, 0, 7)

    def test_shares_hold_up_to_the_maximum(self) -> None:
        mixture = quotas(10_000, MixtureShares(replay=0.4, anchor=0.1, maximum=1000), 7)
        assert (mixture.new, mixture.replay, mixture.anchor) == (500, 400, 100)

    def test_a_student_sees_more_of_what_was_known(self) -> None:
        mixture = quotas(300, MixtureShares(replay=0.5, distill_replay=0.75), 7, "distill")
        assert (mixture.new, mixture.replay) == (300, 900)

    @pytest.mark.parametrize("shares", [MixtureShares(1.0, 1.0), MixtureShares(5.0), MixtureShares(-1.0, -1.0)])
    @pytest.mark.parametrize("new", [-3, 0, 1, 50_000])
    def test_no_shares_leave_nothing_new_or_break_the_maximum(self, shares: MixtureShares, new: int) -> None:
        mixture = quotas(new, shares, 7)
        assert (mixture.new > 0) == (new > 0)
        assert min(mixture.new, mixture.replay, mixture.anchor) >= 0
        assert mixture.new + mixture.replay + mixture.anchor <= shares.maximum + 1


GOLDENS = SetView("main", "goldens", 320, "1", discordance=0.08)


class TestPower:
    def test_a_margin_that_the_goldens_can_not_prove_is_refused_with_the_one_that_they_can(self) -> None:
        (short,) = power({"regression": regression.Options(margin=0.01)}, [GOLDENS])
        assert str(short) == (
            "the policy promises what its goldens can't prove: margin 0.01 with 320 items (8 % disagreed last time)\n"
            "  hint: 320 items prove a margin of 0.052; set that, or bring about 8,700 items:"
            " learnctl goldens import --help"
        )

    def test_the_margin_that_the_hint_names_is_accepted(self) -> None:
        assert power({"regression": regression.Options(margin=0.052)}, [GOLDENS]) == []

    def test_a_set_that_was_never_compared_is_taken_at_its_best(self) -> None:
        new = replace(GOLDENS, discordance=None)
        assert power({"regression": regression.Options(margin=0.01)}, [new]) == []
        (short,) = power({"regression": regression.Options(margin=0.001)}, [new])
        assert "(never compared yet)" in short.message

    def test_a_gate_that_is_off_promises_nothing(self) -> None:
        assert power({"retention": retention.Options(margin=0.0, enabled=False)}, [GOLDENS]) == []

    def test_a_safety_limit_needs_its_items_of_each_kind(self) -> None:
        small = SetView("harm", "safety", 200, "1", slices=(("harmful", 50), ("benign", 150)))
        (short,) = power({"safety": safety.Options()}, [small])
        assert short.message.endswith("limit 0.02 for harmful with 50 items")
        assert short.hint.startswith("50 faultless items prove a limit of 0.058; set that, or bring 150 of them")

    def test_what_the_ledger_has_spent_makes_the_same_margin_dearer(self) -> None:
        options = {"regression": regression.Options(margin=0.052)}
        (short,) = power(charged(options, {"regression": Share(1, 1 / 11, 10 / 11)}), [GOLDENS])
        assert short.hint.startswith("320 items prove a margin of 0.067")

    def test_without_sets_there_is_nothing_to_refuse(self) -> None:
        assert power(OPTIONS, []) == []


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (-5, "0 s"),
            (45, "45 s"),
            (60, "1 min"),
            (11_400, "3 h 10 min"),
            (7200, "2 h"),
            (90_000, "1 d 1 h"),
            (172_800, "2 d"),
            (float("inf"), "forever"),
            (float("nan"), "forever"),
        ],
    )
    def test_durations_read_in_their_two_largest_units(self, seconds: float, text: str) -> None:
        assert words.duration(seconds) == text

    def test_numbers_carry_units(self) -> None:
        assert words.percent(0.0862) == "8.6 %"
        assert words.percent(0.92) == "92 %"
        assert words.interval(0.012, -0.004, 0.028) == "+1.2 points [-0.4, +2.8]"
        assert (words.count(1, "item"), words.count(1204, "item")) == ("1 item", "1,204 items")
        assert (words.about(8659), words.about(73), words.about(5)) == ("8,700", "73", "5")
        assert words.listed(["a", "b", "c"]) == "a, b and c"
