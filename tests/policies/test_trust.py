"""Raters are believed unless there is a reason, and the reason is said."""

from policies.trust import Options, RaterRecord, agreement, judge, weight

OPTIONS = Options(per_day=10, brigade=3, brigade_texts=5, contradictions=8)
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
    assert judge(crowd, OPTIONS) == ()


def test_only_the_records_beyond_the_cap_of_a_burst_are_held() -> None:
    burst = [RaterRecord(n, "u", 1000.0 + n, f"q{n}") for n in range(14)]
    held = judge(burst, OPTIONS)
    assert [record.seq for record in held] == [10, 11, 12, 13]
    assert held[0].reason == "a burst: more than 10 records of one rater within 24 hours"


def test_the_same_number_over_several_days_is_no_burst() -> None:
    assert judge([RaterRecord(n, "u", n * 3 * HOUR, f"q{n}") for n in range(40)], OPTIONS) == ()


def test_anonymous_records_are_not_one_rater() -> None:
    assert judge([RaterRecord(n, "", 1000.0 + n, f"q{n}") for n in range(50)], OPTIONS) == ()


def test_a_brigade_is_held_whole() -> None:
    three = [r for n, user in enumerate("abc") for r in written(user, 6, 1000.0 + n, 100 * n)]
    held = judge(three, OPTIONS)
    assert len(held) == 18
    assert held[0].reason == "a brigade of 3 raters: the same 6 texts to the same prompts within a day"


def test_a_few_common_corrections_are_consensus_and_no_brigade() -> None:
    three = [r for n, user in enumerate("abc") for r in written(user, 4, 1000.0 + n, 100 * n)]
    assert judge(three, OPTIONS) == ()


def test_the_same_texts_weeks_apart_are_no_brigade() -> None:
    apart = [r for n, user in enumerate("abc") for r in written(user, 6, 1000.0 + n * 240 * HOUR, 100 * n)]
    assert judge(apart, OPTIONS) == ()


def test_a_rater_against_everybody_is_held() -> None:
    crowd = [r for u in range(4) for r in rated(f"u{u}", 9, 1.0, 100 * u)]
    liar = rated("liar", 9, -1.0, 900)
    held = judge([*crowd, *liar], OPTIONS)
    assert [record.seq for record in held] == list(range(900, 909))
    assert held[0].reason == "a rater against all others on 9 of 9 answers"


def test_two_who_disagree_are_both_believed() -> None:
    assert judge([*rated("a", 20, 1.0), *rated("b", 20, -1.0, 100)], Options()) == ()


def test_the_order_of_records_does_not_matter() -> None:
    records = [r for n, user in enumerate("abcd") for r in written(user, 6, 1000.0 + n, 100 * n)]
    assert judge(records, OPTIONS) == judge(reversed(records), OPTIONS)


def test_weights_rise_with_agreement_and_fall_with_contradiction() -> None:
    assert weight(0, 0) == 0.8
    assert 0 < weight(0, 50) < weight(2, 2) < weight(0, 0) < weight(50, 0) < 1
    scores = agreement([r for u in range(4) for r in rated(f"u{u}", 3, 1.0 if u else -1.0, 10 * u)])
    assert scores["u0"] == (0, 3)
    assert scores["u1"] == (3, 0)
