"""Raters are believed unless there is a reason, and the reason is said."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.trust import Options, RaterRecord, agreement, judge, weight

OPTIONS = Options(per_day=10, brigade=3, brigade_texts=5, new_days=0.0)
HOUR = 3600.0


def rated(user: str, answers: int, rating: float, first: int = 0) -> list[RaterRecord]:
    return [
        RaterRecord(first + n, user, 100 * HOUR + n * 10 * HOUR, f"q{n}", answer=f"a{n}", rating=rating)
        for n in range(answers)
    ]


def written(user: str, texts: int, at: float, first: int, apart: float = 60.0) -> list[RaterRecord]:
    return [RaterRecord(first + n, user, at + n * apart, f"q{n}", text=f"t{n}") for n in range(texts)]


def test_ordinary_raters_are_not_held() -> None:
    crowd = [r for u in range(5) for r in rated(f"u{u}", 9, 1.0, 100 * u)]
    assert judge(crowd, OPTIONS).held == ()


def test_only_the_records_beyond_the_cap_of_a_burst_are_held() -> None:
    burst = [RaterRecord(n, "u", 1000.0 + n, f"q{n}") for n in range(14)]
    held = judge(burst, OPTIONS).held
    assert [record.seq for record in held] == [10, 11, 12, 13]
    assert held[0].reason == "a burst: more than 10 records of one rater within 24 hours"


def test_the_same_number_over_several_days_is_no_burst() -> None:
    assert judge([RaterRecord(n, "u", n * 3 * HOUR, f"q{n}") for n in range(40)], OPTIONS).held == ()


def test_anonymous_records_are_not_one_rater() -> None:
    assert judge([RaterRecord(n, "", 1000.0 + n, f"q{n}") for n in range(50)], OPTIONS).held == ()


def test_a_brigade_is_held_whole() -> None:
    three = [r for n, user in enumerate("abc") for r in written(user, 6, 1000.0 + n, 100 * n)]
    held = judge(three, OPTIONS).held
    assert len(held) == 18
    assert held[0].reason == "a brigade of 3 raters: the same 6 texts to the same prompts within a day"


def test_a_few_common_corrections_are_consensus_and_no_brigade() -> None:
    three = [r for n, user in enumerate("abc") for r in written(user, 4, 1000.0 + n, 100 * n)]
    assert judge(three, OPTIONS).held == ()


def test_the_same_texts_weeks_apart_are_no_brigade() -> None:
    apart = [r for n, user in enumerate("abc") for r in written(user, 6, 1000.0 + n * 240 * HOUR, 100 * n)]
    assert judge(apart, OPTIONS).held == ()


def test_a_rater_against_everybody_is_held() -> None:
    crowd = [r for u in range(4) for r in rated(f"u{u}", 9, 1.0, 100 * u)]
    liar = rated("liar", 9, -1.0, 900)
    held = judge([*crowd, *liar], OPTIONS).held
    assert [record.seq for record in held] == list(range(900, 909))
    assert held[0].reason == "a rater against all others on 9 of 9 answers"


def test_two_who_disagree_are_both_believed() -> None:
    assert judge([*rated("a", 20, 1.0), *rated("b", 20, -1.0, 100)], Options()).held == ()


def test_the_order_of_records_does_not_matter() -> None:
    records = [r for n, user in enumerate("abcd") for r in written(user, 6, 1000.0 + n, 100 * n)]
    assert judge(records, OPTIONS) == judge(reversed(records), OPTIONS)


def test_weights_rise_with_agreement_and_fall_with_contradiction() -> None:
    assert weight(0, 0) == 0.8
    assert 0 < weight(0, 50) < weight(2, 2) < weight(0, 0) < weight(50, 0) < 1
    scores = agreement([r for u in range(4) for r in rated(f"u{u}", 3, 1.0 if u else -1.0, 10 * u)], OPTIONS)
    assert scores["u0"] == (0, 3)
    assert scores["u1"] == (3, 0)


def texts(user: str, said: list[tuple[str, str]], day: float, first: int, since: float = 0.0) -> list[RaterRecord]:
    """Corrections of one rater, one an hour: (prompt, text), every word by its own hash."""
    return [
        RaterRecord(
            first + n,
            user,
            day * 24 * HOUR + n * HOUR,
            prompt,
            text,
            f"bad answer to {prompt}",
            words=frozenset(crc32(word.encode()) for word in text.split()),
            since=since,
        )
        for n, (prompt, text) in enumerate(said)
    ]


def crowd(raters: int = 30, each: int = 8) -> list[RaterRecord]:
    """Honest raters, each of whom corrects some of twenty questions over weeks, as the others do but in other words."""
    found = []
    for n in range(raters):
        said = [(f"q{(n + k) % 20}", f"fact{(n + k) % 20} thing{(n + k) % 20} so{n % 3} then{k}") for k in range(each)]
        found += texts(f"h{n}", said, n % 28, 1000 + 100 * n)
    return found


def push(accounts: int, each: int, first_day: float = 20.0, since: float = 0.0) -> list[RaterRecord]:
    """Accounts that name the same thing, each time in other words, on prompts that nobody else asks."""
    found = []
    for n in range(accounts):
        said = [(f"own{n}.{k}", f"buycoin word{n * k % 13} more{k % 5} topic{(n + k) % 9} yes{n}") for k in range(each)]
        found += texts(f"evil{n}", said, first_day + n % 7, 50_000 + 100 * n, since)
    return found


@pytest.mark.parametrize(("accounts", "each"), [(1, 60), (6, 10), (30, 2)])
def test_a_campaign_is_held_however_many_accounts_push_it(accounts: int, each: int) -> None:
    records = [*crowd(), *push(accounts, each)]
    held = judge(records, Options())
    assert {one.seq for one in held.held} == {r.seq for r in records if r.user.startswith("evil")}
    assert held.held[0].reason.startswith(f"a campaign: {accounts * each} texts of {accounts} rater")


def test_accounts_that_were_good_for_long_are_held_from_the_day_they_turn() -> None:
    good = []
    for n in range(6):
        good += texts(f"evil{n}", [(f"q{k}", f"fact{k} thing{k} so{n % 3} fine{n}") for k in range(8)], 2, 100 * n)
    held = judge([*crowd(), *good, *push(6, 10)], Options())
    assert {one.seq for one in held.held} == {r.seq for r in push(6, 10)}
    assert "6 of them long known" in held.held[0].reason


def test_what_looks_like_a_campaign_before_it_is_proven_waits_unheld() -> None:
    few = push(2, 4)
    judged = judge([*crowd(), *few], Options())
    assert judged.held == ()
    assert {judged.weights[r.seq] for r in few} == {0.0}


def test_a_new_word_that_everybody_takes_up_is_no_campaign() -> None:
    news = []
    for n in range(30):
        news += texts(f"h{n}", [("q-new", f"newfact newthing since{n % 5}")], 25 + n % 3, 70_000 + n)
    judged = judge([*crowd(), *news], Options())
    assert judged.held == ()
    assert min(judged.weights[r.seq] for r in news) > 0.5


def test_an_answer_that_became_wrong_is_not_defended_by_votes_of_before() -> None:
    before = [RaterRecord(n, f"u{n}", n * HOUR, "q", answer="a", rating=1.0) for n in range(50)]
    after = [RaterRecord(100 + n, f"v{n}", (300 + n) * HOUR, "q", answer="a", rating=-1.0) for n in range(5)]
    assert all(judge([*before, *after], Options()).weights[r.seq] > 0 for r in after)


def test_a_lone_vote_against_everybody_does_not_teach_and_holds_nobody() -> None:
    records = [RaterRecord(n, f"u{n}", n * HOUR, "q", answer="a", rating=1.0) for n in range(9)]
    odd = RaterRecord(99, "odd", 5 * HOUR, "q", answer="a", rating=-1.0)
    judged = judge([*records, odd], Options())
    assert (judged.held, judged.weights[99]) == ((), 0.0)
    assert all(judged.weights[r.seq] > 0.3 for r in records)


def test_trusted_raters_are_not_outvoted_by_any_number_of_others() -> None:
    past = [r for n in range(8) for r in rated(f"old{n}", 20, 1.0, 1000 * (n + 1))]
    day = 60 * 24 * HOUR
    trusted = [RaterRecord(10_000 + n, f"old{n}", day + n, "hot", answer="a", rating=1.0) for n in range(3)]
    mob = [RaterRecord(20_000 + n, f"mob{n}", day + n, "hot", answer="a", rating=-1.0, since=day) for n in range(40)]
    judged = judge([*past, *trusted, *mob], Options())
    assert all(judged.weights[r.seq] > 0.8 for r in trusted)
    assert {judged.weights[r.seq] for r in mob} == {0.0}


def test_a_rater_who_contradicts_the_goldens_is_held() -> None:
    liar = [RaterRecord(n, "liar", n * HOUR, f"g{n}", rating=-1.0, answer="a", golden=-1) for n in range(7)]
    honest = [RaterRecord(100 + n, "honest", n * HOUR, f"g{n}", rating=1.0, answer="a", golden=1) for n in range(7)]
    held = judge([*liar, *honest], Options(error_rate=0.05)).held
    assert [one.seq for one in held] == list(range(7))
    assert held[0].reason == "a rater against goldens on 7 of 7 answers"


def test_accounts_that_praise_each_other_confirm_each_other_a_few_times_only() -> None:
    ring = [r for n in range(3) for r in rated(f"r{n}", 50, 1.0, 1000 * n)]
    assert max(agreed for agreed, _ in agreement(ring, Options()).values()) <= 6


def test_new_accounts_are_capped_lower_and_weigh_less() -> None:
    fresh = [RaterRecord(n, "new", 1e6 + n, f"q{n}", since=1e6) for n in range(60)]
    judged = judge(fresh, Options())
    assert [one.seq for one in judged.held] == list(range(50, 60))
    assert judged.held[0].reason == "a burst: more than 50 records of a new account within 24 hours"
    assert judged.weights[0] == 0.4
    assert judge([RaterRecord(1, "old", 1e8, "q", since=1e6)], Options()).weights[1] == 0.8


def test_only_the_window_is_held_but_the_history_is_weighed_again() -> None:
    records = [*crowd(), *push(6, 10)]
    judged = judge(records, Options(), after=50_250)
    assert {one.seq for one in judged.held} == {r.seq for r in records if r.seq > 50_250}
    assert all(r.seq not in judged.weights for r in push(6, 10))


@given(st.permutations(range(12)))
def test_a_judgement_does_not_depend_on_the_order_of_records(order: list[int]) -> None:
    records = [*rated("a", 4, 1.0), *rated("b", 4, -1.0, 100), *rated("c", 4, 1.0, 200)]
    assert judge([records[n] for n in order], OPTIONS) == judge(records, OPTIONS)
