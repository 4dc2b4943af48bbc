"""Drift is found where it is, not where it isn't, and never below the minimum."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from feedback import counts, drift, windows
from feedback.drift.psi import Options, measure
from policies.errors import Misconfigured
from policies.model import DriftReport
from tests.feedback.support import sketched

OPTIONS = Options()
CATEGORIES = ["de", "en", "fr", "it", "nl"]


def rows(draw: random.Random, n: int, columns: int = 5, **shift: Callable[[], Any]) -> list[dict[str, Any]]:
    made = []
    for _ in range(n):
        row: dict[str, Any] = {f"number{i}": draw.lognormvariate(0, 1) for i in range(columns)}
        row |= {f"word{i}": draw.choices(CATEGORIES, [50, 30, 15, 4, 1])[0] for i in range(columns)}
        made.append(row | {name: value() for name, value in shift.items()})
    return made


def of(report: DriftReport, name: str) -> Any:
    return next(column for column in report.columns if column.column == name)


@pytest.mark.slow
def test_nothing_changed_hardly_ever_alarms_in_many_columns() -> None:
    alarms = 0
    for seed in range(30):
        draw = random.Random(seed)
        reference, current = sketched(rows(draw, 400, 6)), sketched(rows(draw, 150, 6))
        # No effect is too small to count here: the correction alone has to hold the error rate.
        alarms += measure(
            reference, current, replace(OPTIONS, psi=-9, association=-1, mean=-1, error_rate=0.05)
        ).drifted
    assert alarms <= 5  # 1.5 expected; more than 5 in 1 of 200 such tests


@pytest.mark.slow
def test_psi_without_its_bias_is_about_nothing_when_nothing_changed() -> None:
    draw = random.Random(5)
    values = []
    for _ in range(40):
        report = measure(sketched(rows(draw, 300, 3)), sketched(rows(draw, 300, 3)), OPTIONS)
        values += [column.value for column in report.columns if column.statistic == "psi"]
    assert sum(values) / len(values) < 0.02  # with its bias: 9 · (1/300 + 1/300) = 0.06


@pytest.mark.parametrize(
    ("name", "value", "statistic"),
    [
        ("number0", lambda draw: draw.lognormvariate(0.6, 1), "psi"),
        ("number0", lambda draw: draw.lognormvariate(0, 2), "psi"),
        ("word0", lambda draw: draw.choices(["en", "new"], [80, 20])[0], "chi2_p"),
        ("word0", lambda draw: draw.choices(CATEGORIES, [20, 30, 30, 15, 5])[0], "chi2_p"),
    ],
)
def test_a_shift_is_found_and_named_and_only_that_one(
    name: str, value: Callable[[random.Random], Any], statistic: str
) -> None:
    draw = random.Random(3)
    current = sketched(rows(draw, 500, **{name: lambda: value(draw)}))
    report = measure(sketched(rows(draw, 2000)), current, OPTIONS)
    assert (report.judged, report.drifted, report.kind) == (True, True, "inputs")
    assert [column.column for column in report.columns if column.drifted] == [name]
    assert of(report, name).statistic == statistic
    assert name in report.reason


def test_a_proven_but_tiny_difference_is_no_drift() -> None:
    draw = random.Random(4)
    current = sketched(rows(draw, 10_000, 1, number0=lambda: draw.lognormvariate(0.12, 1)))
    report = measure(sketched(rows(draw, 10_000, 1)), current, OPTIONS)
    assert float(of(report, "number0").note.removeprefix("p ")) < 1e-6
    assert not report.drifted


def test_a_number_that_has_one_value_is_judged_by_its_mean() -> None:
    draw = random.Random(4)
    reference = sketched([{"confidence": draw.uniform(0.95, 0.99)} for _ in range(400)])
    same = measure(reference, sketched([{"confidence": draw.uniform(0.95, 0.99)} for _ in range(400)]), OPTIONS)
    moved = measure(reference, sketched([{"confidence": draw.uniform(0.90, 0.94)} for _ in range(400)]), OPTIONS)
    assert of(same, "confidence").statistic == "mean_shift"
    assert (same.drifted, moved.drifted) == (False, True)


@pytest.mark.parametrize(("was", "now", "drifted"), [(3, 3, False), (3, 4, True), (0, 0, False), (0, 1, True)])
def test_a_constant_drifts_when_it_changes(was: int, now: int, drifted: bool) -> None:
    constant = lambda value: sketched([{"x": value}] * 300)  # noqa: E731
    assert measure(constant(was), constant(now), OPTIONS).drifted is drifted


def test_nothing_is_judged_below_the_minimum() -> None:
    draw = random.Random(1)
    few = sketched([{"number0": 1e6, "word0": "new"}] * 49)
    for one, other in ((sketched(rows(draw, 500)), few), (few, sketched(rows(draw, 500)))):
        report = measure(one, other, OPTIONS)
        assert (report.judged, report.drifted, report.kind) == (False, False, "")
        assert "too few" in report.reason
        assert "not judged: 49 values" in of(report, "number0").note or of(report, "number0").current_n == 500


def test_an_empty_window_is_not_judged() -> None:
    assert not measure(sketched([]), sketched([]), OPTIONS).judged
    assert not measure(sketched([{"x": 1.0}] * 300), sketched([]), OPTIONS).judged


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ({"x": 1.0}, {"y": 1.0}, "not judged"),
        ({"x": 1.0}, {"x": "one"}, "numbers on one side"),
        ({"response_length": 10}, {"response_length": 99}, "ignored"),
    ],
)
def test_what_cannot_be_compared_is_shown_and_not_judged(old: Any, new: Any, note: str) -> None:
    report = measure(sketched([old] * 300), sketched([new] * 300), OPTIONS)
    assert (report.judged, report.drifted) == (False, False)
    assert all(note in column.note for column in report.columns)


def test_exposures_are_not_compared_with_feedback() -> None:
    current = replace(sketched([{"x": 9.0}] * 300), records="exposure")
    report = measure(sketched([{"x": 1.0}] * 300), current, OPTIONS)
    assert not report.judged
    assert "made of feedback records, this window of exposure" in report.columns[0].note


@pytest.mark.parametrize(
    ("before", "now", "drifted"),
    [((900, 100), (700, 300), True), ((900, 100), (880, 120), False), ((700, 300), (900, 100), False),
     ((90, 10), (80, 20), False), ((900, 100), (30, 10), False)],
)  # fmt: skip
def test_outcomes_drift_when_the_rate_of_good_ratings_provably_falls(
    before: tuple[int, int], now: tuple[int, int], drifted: bool
) -> None:
    good, bad, neutral = {"rating": 1.0}, {"rating": -1.0}, [{"rating": 0.0}] * 500
    reference = sketched([good] * before[0] + [bad] * before[1] + neutral, "outcomes")
    current = sketched([good] * now[0] + [bad] * now[1] + neutral, "outcomes")
    report = measure(reference, current, OPTIONS)
    assert report.drifted is drifted
    assert report.kind == ("outcomes" if drifted else "")
    assert of(report, "rating").current_n == sum(now)  # neutral ratings say nothing


def test_the_effect_of_a_category_does_not_shrink_with_a_small_window() -> None:
    draw = random.Random(9)
    changed = [{"word": draw.choices(["en", "new"], [70, 30])[0]} for _ in range(10_000)]
    reference = sketched([{"word": draw.choices(["en", "fr"], [70, 30])[0]} for _ in range(10_000)])
    for size in (100, 10_000):
        assert measure(reference, sketched(changed[:size]), OPTIONS).drifted


def test_a_detector_is_a_file_and_another_name_is_refused() -> None:
    assert set(drift.names()) >= {"psi", "columns"}
    assert drift.load("psi").measure is measure
    with pytest.raises(Misconfigured, match="no drift detector 'psy'"):
        drift.load("psy")


def in_blocks(parts: Sequence[Sequence[dict[str, Any]]], kind: str = "inputs") -> Any:
    blocks = tuple(replace(sketched(part, kind), first=10 + n, last=11 + n) for n, part in enumerate(parts))
    return windows.joined(blocks, blocks)


@pytest.mark.parametrize(
    ("changed", "drifted"),
    [((0, 0, 0, 0), False), ((1, 1, 0, 0), False), ((0, 1, 1, 1), True), ((1, 0, 1, 1), True), ((1, 1, 1, 1), True)],
)
def test_a_drift_must_show_in_enough_blocks_and_begins_with_the_first_of_them(
    changed: tuple[int, ...], drifted: bool
) -> None:
    draw = random.Random(6)
    odd = {"word0": lambda: draw.choice(["en", "new"])}
    current = in_blocks([rows(draw, 300, **(odd if one else {})) for one in changed])
    report = measure(sketched(rows(draw, 2000)), current, OPTIONS)
    assert report.drifted is drifted
    if drifted:
        assert of(report, "word0").since == 11 + changed.index(1)
        assert f"large in {sum(changed)} of 4 blocks" in of(report, "word0").note
    assert all(column.since == 0 for column in report.columns if not column.drifted)


def test_nothing_is_judged_before_enough_blocks_are_there() -> None:
    draw = random.Random(6)
    current = in_blocks([[{"word0": "new"}] * 300] * 2)
    report = measure(sketched(rows(draw, 2000)), current, OPTIONS)
    assert (report.judged, report.drifted, report.columns) == (False, False, ())
    assert report.reason == "too few inputs to compare: 2 of 3 blocks are there"


def days_of(draw: random.Random, days: str, n: int, **shift: Callable[[], Any]) -> Any:
    """`n` rows a day; on weekends (days 5 and 6) other words are used, and answers take longer."""
    told, labels = [], []
    for day in days:
        away = day in "56"
        usual = {"word0": lambda: draw.choice(["nl", "it"])} if away else {}
        for row in rows(draw, n, 1, **(usual | shift)):
            told.append(row | {"number0": row["number0"] * (3 if away else 1)})
            labels.append(day)
    return sketched(told, days=labels)


def test_a_weekend_is_compared_with_weekends() -> None:
    draw = random.Random(8)
    whole_week, workdays = days_of(draw, "0123456", 300), days_of(draw, "01234", 300)
    weekend = days_of(draw, "56", 300)
    assert not measure(whole_week, weekend, OPTIONS).drifted
    assert measure(workdays, weekend, OPTIONS).drifted  # a weekday that the reference lacks: all of it must do
    assert not measure(whole_week, days_of(draw, "456", 300), OPTIONS).drifted
    other = days_of(draw, "56", 300, word0=lambda: draw.choice(["nl", "new"]))
    assert [c.column for c in measure(whole_week, other, OPTIONS).columns if c.drifted] == ["word0"]


def test_a_reference_seen_by_weekday_is_worth_as_many_values_as_its_noise_says() -> None:
    days = {"0": {"n": 100, "=a": 100}, "1": {"n": 300, "=a": 150, "=b": 150}, "2": {"n": 10, "=b": 10}}
    same = counts.like(days, {"0": {"n": 50}, "1": {"n": 150}}, 50)
    assert {"n": same.n, **same.bins} == pytest.approx({"n": 400, "=a": 250, "=b": 150})
    monday = counts.like(days, {"0": {"n": 7}}, 50)
    assert {"n": monday.n, **monday.bins} == pytest.approx({"n": 100, "=a": 100})
    half = counts.like(days, {"0": {"n": 5}, "1": {"n": 5}}, 50)
    assert half.n == pytest.approx(1 / (0.25 / 100 + 0.25 / 300))
    assert half.bins["=a"] / half.n == pytest.approx(0.75)
    few = counts.like(days, {"2": {"n": 5}}, 50)
    assert {"n": few.n, **few.bins} == pytest.approx({"n": 410, "=a": 250, "=b": 160})
    unknown = counts.like({"": {"n": 40, "=a": 40}}, {"3": {"n": 5}}, 50)
    assert {"n": unknown.n, **unknown.bins} == pytest.approx({"n": 40, "=a": 40})


def test_the_rating_of_a_slice_drifts_by_its_name_and_what_nearly_all_belong_to_is_no_slice() -> None:
    def rated(good: float) -> list[dict[str, Any]]:
        north = [{"rating": 1.0, "shop": "north", "app": "web"}] * 1500
        return north + [{"rating": 1.0 if n < good * 300 else -1.0, "shop": "south", "app": "web"} for n in range(300)]

    report = measure(sketched(rated(0.95), "outcomes"), sketched(rated(0.8), "outcomes"), OPTIONS)
    assert report.slices == ("shop=north", "shop=south")
    assert [column.column for column in report.columns] == ["rating", "rating[shop=south]"]
    assert [column.slice for column in report.columns if column.drifted] == ["shop=south"]
    assert report.reason.startswith("outcomes of shop=south drifted in rating (rate_difference -0.15")


def sliced(draw: random.Random, sizes: dict[str, int], **shift: dict[str, Callable[[], Any]]) -> Any:
    """A window of tenants, each a slice; `shift` is what a tenant's rows have instead."""
    parts = {name: rows(draw, n, 2, **shift.get(name, {})) for name, n in sizes.items()}
    whole = sketched([row for part in parts.values() for row in part])
    slices = {f"tenant={name}": replace(sketched(part), slice=f"tenant={name}") for name, part in parts.items()}
    return replace(whole, slices=slices)


def test_a_drift_of_one_slice_is_found_and_named_and_nothing_else() -> None:
    draw = random.Random(2)
    sizes = {"acme": 100, "zeta": 900, "omega": 1000}
    odd = {"acme": {"word0": lambda: draw.choice(["en", "new"])}}
    report = measure(sliced(draw, {name: 4 * n for name, n in sizes.items()}), sliced(draw, sizes, **odd), OPTIONS)
    assert [column.column for column in report.columns if column.drifted] == ["word0[tenant=acme]"]
    assert (report.drifted, report.kind) == (True, "inputs")
    assert report.slices == ("tenant=acme", "tenant=omega", "tenant=zeta")
    assert report.reason.startswith("inputs of tenant=acme drifted in word0 (chi2_p ")
    assert "100 rows against 400" in report.reason


@pytest.mark.slow
def test_many_slices_hardly_ever_alarm_when_nothing_changed() -> None:
    alarms, sizes = 0, {f"t{number}": 60 for number in range(30)}
    for seed in range(30):
        draw = random.Random(seed)
        # As without slices: no effect is too small to count, the correction alone holds the error rate.
        options = replace(OPTIONS, psi=-9, association=-1, mean=-1, error_rate=0.05)
        alarms += measure(sliced(draw, dict.fromkeys(sizes, 200)), sliced(draw, sizes), options).drifted
    assert alarms <= 5


def test_a_slice_that_one_side_lacks_or_that_has_too_few_values_is_not_judged() -> None:
    draw = random.Random(2)
    odd = {name: {"word0": lambda: "new"} for name in ("few", "fresh")}
    current = sliced(draw, {"few": 49, "fresh": 300, "zeta": 300}, **odd)
    report = measure(sliced(draw, {"few": 300, "zeta": 9000}), replace(current, columns={}), OPTIONS)
    assert report.slices == ("tenant=zeta",)
    assert not report.drifted
