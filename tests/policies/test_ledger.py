"""The ledger never gives out more than there is, and a candidate is judged by its share alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import gates, ledger
from policies.ledger import Share
from policies.model import Result
from tests.policies.worlds import OPTIONS, good


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=60))
def test_over_any_number_of_candidates_no_more_than_everything_is_spent(candidates: list[float]) -> None:
    spent: list[float] = []
    for rule in candidates:
        share = ledger.of_set(spent, rule)
        assert 0 < share.share < 1
        assert share.left == pytest.approx(1 - math.fsum([*spent, share.share]))
        spent.append(share.share)
    assert math.fsum(spent) < 1


def test_half_is_spent_after_as_many_candidates_as_the_policy_says() -> None:
    spent: list[float] = []
    for number in range(1, 11):
        share = ledger.of_set(spent, 10)
        assert share.share == pytest.approx(10 / ((number + 9) * (number + 10)))
        spent.append(share.share)
    assert math.fsum(spent) == pytest.approx(0.5)


def test_a_window_is_shared_equally_among_its_tries_and_then_used_up() -> None:
    first = ledger.of_window([], 3)
    second = ledger.of_window([first.share], 3)
    third = ledger.of_window([first.share, second.share], 3)
    assert [first.share, second.share, third.share] == pytest.approx([1 / 3] * 3)
    assert ledger.of_window([1 / 3] * 3, 3).share == 0
    assert ledger.of_window([1.0], 5).share == 0, "what is spent is spent, whatever the policy says now"


def test_only_what_must_be_proven_gets_dearer() -> None:
    charged = ledger.charged(OPTIONS, {"safety": Share(2, 0.1, 0.8)})
    assert charged["safety"].error_rate == pytest.approx(0.005)
    assert charged["safety"].harm_error_rate == OPTIONS["safety"].harm_error_rate
    assert charged["regression"] is OPTIONS["regression"]


def test_the_evidence_says_what_was_spent_and_what_is_left() -> None:
    shares = {name: Share(3, 0.5, 0.25) for name in ("safety", "regression", "retention", "improvement")}
    found = {verdict.gate: verdict for verdict in gates.judge_all(*good(), None, OPTIONS, shares=shares)}
    assert found["regression"].claims[0].error_rate == pytest.approx(0.05)
    last = found["regression"].claims[-1]
    assert last.note == "candidate 3 on these items: 50 % of the error rate of 5 % spent, 25 % left"
    assert "ledger" not in {claim.name for claim in found["budget"].claims}


def test_a_gate_whose_error_rate_is_spent_refuses() -> None:
    found = {v.gate: v for v in gates.judge_all(*good(), None, OPTIONS, shares={"improvement": Share(4, 0.0, 0.0)})}
    assert found["improvement"].result is Result.FAIL
    assert found["improvement"].reason == "3 candidates spent the whole error rate on these items: new ones are needed"
