"""Live ratings settle a version or send it back, however often one looks."""

import math
import random
from dataclasses import replace

import pytest

from policies.model import Votes, WatchView
from policies.policy import WatchRule
from policies.watch import judge
from tests.policies.worlds import HOUR, NOW, votes

RULE = WatchRule()
LATER = NOW + 10 * HOUR


def first_regression(draw: random.Random, before: float, now: float, length: int, step: int = 5) -> int | None:
    base = sum(draw.random() < before for _ in range(200))
    good = 0
    for n in range(1, length + 1):
        good += draw.random() < now
        if n % step == 0:
            view = WatchView(NOW, Votes("new", n, good), Votes("old", 200, base))
            if judge(view, RULE, NOW + 60).state == "regressed":
                return n
    return None


@pytest.mark.slow
def test_an_equal_version_is_rarely_sent_back_over_any_length() -> None:
    draw, runs = random.Random(1), 40
    false = sum(first_regression(draw, 0.85, 0.85, 200, 20) is not None for _ in range(runs))
    assert false / runs <= 0.05 + 3 * math.sqrt(0.0475 / runs)


@pytest.mark.slow
def test_a_loss_of_thirty_points_is_found_within_150_votes() -> None:
    draw = random.Random(2)
    found = [first_regression(draw, 0.9, 0.6, 150, 10) for _ in range(40)]
    assert sum(n is not None for n in found) >= 38


def test_a_version_no_worse_settles_after_enough_votes_and_hours() -> None:
    view = votes(1900, 2000, 1800, 2000)
    assert judge(view, RULE, LATER).state == "settled"
    early = judge(view, RULE, NOW)
    assert early.state == "undecided"
    assert "1 h of at least 6 h" in early.reason


def test_good_ratings_below_the_minimum_do_not_settle() -> None:
    judgement = judge(votes(40, 40, 200, 2000), RULE, LATER)
    assert judgement.state == "undecided"
    assert "10 more ratings to the minimum" in judgement.reason


def test_a_proven_loss_needs_no_minimum_of_hours() -> None:
    judgement = judge(votes(20, 60), RULE, NOW)
    assert judgement.state == "regressed"
    assert "33 % of 60 ratings good, 90 % of 300 before" in judgement.reason
    assert judgement.high < -RULE.margin


def test_a_deadline_without_evidence_is_unproven() -> None:
    assert judge(votes(5, 6), RULE, NOW + 100 * HOUR).state == "unproven"


@pytest.mark.parametrize("view", [votes(0, 0), votes(50, 60, 0, 0), votes(0, 60, 0, 0)])
def test_without_anything_to_compare_nothing_is_decided(view: WatchView) -> None:
    assert judge(view, RULE, NOW).state == "undecided"
    assert judge(view, RULE, NOW + 100 * HOUR).state == "unproven"


def test_the_reason_says_how_many_more_ratings_decide() -> None:
    judgement = judge(votes(56, 61, 1800, 2000), RULE, NOW + 7 * HOUR)
    assert judgement.reason.startswith("61 ratings of the new version, 92 % good; about ")
    assert judgement.more is not None
    share, n = 56 / 61, round(1.05 * (61 + judgement.more))
    later = replace(votes(0, 0, 1800, 2000), now=Votes("new", n, round(share * n)))
    assert judge(later, RULE, NOW + 7 * HOUR).state == "settled"
