"""Intervals hold what they promise, and agree with the libraries where those have the same."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import statsmodels.api as sm  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference
from scipy.special import xlogy
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar  # type: ignore[import-untyped]
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]
from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped]

from policies import sequential, sizes, stats


@pytest.mark.parametrize(("good", "n"), [(0, 10), (3, 10), (10, 10), (45, 320), (7, 150)])
def test_wilson_and_clopper_pearson_agree_with_statsmodels(good: int, n: int) -> None:
    assert stats.wilson(good, n, 0.05) == pytest.approx(proportion_confint(good, n, 0.05, "wilson"), abs=1e-9)
    assert stats.clopper_pearson(good, n, 0.05) == pytest.approx(proportion_confint(good, n, 0.05, "beta"), abs=1e-9)


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (5, 0), (0, 5), (9, 4), (40, 25)])
def test_exact_mcnemar_agrees_with_statsmodels(worse: int, better: int) -> None:
    expected = 1.0 if worse + better == 0 else reference_mcnemar([[3, worse], [better, 3]], exact=True).pvalue
    assert stats.mcnemar(worse, better, two_sided=True) == pytest.approx(expected)


def test_one_sided_mcnemar_counts_the_tail_of_harm() -> None:
    assert stats.mcnemar(5, 0) == pytest.approx(1 / 32)
    assert stats.mcnemar(0, 5) == 1.0


def test_holm_agrees_with_statsmodels() -> None:
    draw = random.Random(3)
    for _ in range(3):
        p_values = [draw.random() ** 3 for _ in range(6)]
        expected = multipletests(p_values, 0.05, "holm")[0].tolist()
        assert list(stats.holm(p_values, 0.05)) == expected


def test_the_mean_interval_is_students() -> None:
    values = [0.1, 0.4, 0.2, 0.9, 0.3]
    mean, error = sum(values) / 5, reference.sem(values)
    assert stats.mean_interval(values, 0.1) == pytest.approx(reference.t.interval(0.9, 4, mean, error))
    assert stats.mean_interval([0.3], 0.1) == (-math.inf, math.inf)


def test_newcombe_gives_the_papers_figures() -> None:
    # Newcombe 1998, Table II: 36, 12, 2, 0.
    low, high = stats.newcombe(stats.Table(36, 12, 2, 0), 0.05)
    assert (round(low, 4), round(high, 4)) == (0.0569, 0.3404)


def test_newcombe_never_shrinks_to_nothing_without_disagreement() -> None:
    low, high = stats.newcombe(stats.Table(100, 0, 0, 0), 0.1)
    assert low < 0 < high
    assert stats.newcombe(stats.Table(0, 0, 0, 0), 0.1) == (-1.0, 1.0)


def test_tango_gives_the_published_figures() -> None:
    # Fagerland, Lydersen & Laake 2014, Statistics in Medicine 33:2850: airway reactivity, cells 1, 1, 7, 12.
    low, high = stats.tango(stats.Table(1, 1, 7, 12), 0.05)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize("cells", [(30, 6, 2, 12), (200, 11, 25, 64), (0, 4, 1, 3), (50, 0, 0, 10), (0, 10, 0, 0)])
def test_tango_ends_where_the_score_test_of_the_likeliest_cells_does(cells: tuple[int, int, int, int]) -> None:
    table = stats.Table(*cells)
    for bound in stats.tango(table, 0.1):
        if abs(bound) == 1.0:
            continue
        room = np.linspace(max(0.0, -bound), min((1 - bound) / 2, 1 - max(0.0, bound)), 400_001)
        seen = xlogy(table.first, np.maximum(0.0, room + bound)) + xlogy(table.second, room)
        likeliest = room[np.argmax(seen + xlogy(table.both + table.neither, np.maximum(0.0, 1 - 2 * room - bound)))]
        variance = table.n * (2 * likeliest + bound * (1 - bound))
        score = (table.first - table.second - table.n * bound) / math.sqrt(variance)
        assert abs(score) == pytest.approx(1.6449, abs=1e-3)


def test_tango_costs_what_the_power_says_without_any_disagreement() -> None:
    low, high = stats.tango(stats.Table(300, 0, 0, 0), 0.1)
    assert -low == high == pytest.approx(sizes.provable_margin(300, 0.0, 0.05), abs=1e-6)
    assert stats.tango(stats.Table(0, 0, 0, 0), 0.1) == (-1.0, 1.0)


@pytest.mark.parametrize(("n", "disagreement"), [(150, 0.06), (300, 0.2), (1500, 0.06)])
@pytest.mark.parametrize("error", [0.05, 0.01, 0.001])
@pytest.mark.slow
def test_a_loss_of_the_margin_passes_no_more_often_than_the_error_says(
    n: int, disagreement: float, error: float
) -> None:
    draw, margin, runs = np.random.default_rng(n), 0.05, 60_000
    first, second = (disagreement - margin) / 2, (disagreement + margin) / 2
    tables = Counter(map(tuple, draw.multinomial(n, (0.7, first, second, 0.3 - disagreement), runs)[:, 1:3].tolist()))
    passed = sum(
        times
        for (b, c), times in tables.items()
        if stats.tango(stats.Table(n - b - c, b, c, 0), 2 * error)[0] > -margin
    )
    assert passed / runs <= 1.04 * error + 3 * math.sqrt(error / runs)


def paired_draw(draw: random.Random, n: int, cells: tuple[float, float, float]) -> tuple[list[float], list[float]]:
    picks = draw.choices(((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)), (*cells, 1 - sum(cells)), k=n)
    return [a for a, _ in picks], [b for _, b in picks]


@pytest.mark.parametrize("cells", [(0.8, 0.05, 0.05), (0.5, 0.2, 0.1), (0.9, 0.02, 0.06)])
@pytest.mark.parametrize("n", [40, 200])
def test_the_paired_interval_covers_as_often_as_it_says(cells: tuple[float, float, float], n: int) -> None:
    draw, truth, inside = random.Random(n), cells[1] - cells[2], 0
    for _ in range(800):
        low, high = stats.paired_difference(*paired_draw(draw, n, cells), 0.1)
        inside += low <= truth <= high
    assert inside / 800 >= 0.9 - 3 * math.sqrt(0.09 / 800)


@pytest.mark.parametrize("n", [30, 150])
@pytest.mark.slow
def test_the_interval_of_fractional_scores_covers_as_often_as_it_says(n: int) -> None:
    draw, inside = random.Random(n), 0
    for _ in range(120):
        pairs = [(draw.betavariate(6, 2), draw.betavariate(5, 2)) for _ in range(n)]
        low, high = stats.paired_difference([a for a, _ in pairs], [b for _, b in pairs], 0.1)
        inside += low <= 6 / 8 - 5 / 7 <= high
    assert inside / 120 >= 0.9 - 3 * math.sqrt(0.09 / 120)


def test_clustered_means_agree_with_statsmodels() -> None:
    draw = random.Random(2)
    groups = [str(draw.randrange(12)) for _ in range(90)]
    values = [draw.choice((-1.0, 0.0, 0.0, 0.5, 1.0)) for _ in groups]
    low, high = stats.mean_difference(values, 0.1, groups)
    added = np.array([*values, math.sqrt(0.5), -math.sqrt(0.5)])
    labels = [int(group) for group in groups] + [100, 101]
    fitted = sm.OLS(added, np.ones(92)).fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    assert [low, high] == pytest.approx(fitted.conf_int(0.1)[0].tolist())


def test_the_clustered_interval_covers_although_a_group_answers_alike() -> None:
    draw, runs, inside, alone = random.Random(4), 600, 0, 0
    groups = [str(n // 8) for n in range(160)]
    for _ in range(runs):
        shifts = [draw.gauss(0.05, 0.3) for _ in range(20)]
        values = [max(-1.0, min(1.0, shifts[int(group)] + draw.gauss(0, 0.1))) for group in groups]
        (low, high), (near, far) = stats.mean_difference(values, 0.1, groups), stats.mean_difference(values, 0.1)
        inside, alone = inside + (low <= 0.05 <= high), alone + (near <= 0.05 <= far)
    assert inside / runs >= 0.9 - 3 * math.sqrt(0.09 / runs)
    assert alone / runs < 0.7, "a test that couldn't fail: the groups must matter"


def test_one_group_is_no_evidence() -> None:
    assert stats.mean_difference([1.0] * 50, 0.1, ["a"] * 50) == (-1.0, 1.0)
    assert stats.mean_difference([], 0.1) == (-1.0, 1.0)


SKEWED = (
    ([0.0, -1.0], [0.95, 0.05]),
    ([0.0, -0.5, 0.1], [0.8, 0.12, 0.08]),
    ([-0.6, -0.2, 0.0, 0.2], [0.1, 0.15, 0.65, 0.1]),
)


@pytest.mark.parametrize(("values", "shares"), SKEWED)
@pytest.mark.parametrize("n", [30, 300])
def test_rare_large_losses_pass_a_fractional_claim_no_more_often_than_the_error_says(
    values: list[float], shares: list[float], n: int
) -> None:
    draw, runs = np.random.default_rng(n), 20_000
    truth = (1 + float(np.dot(values, shares))) / 2
    samples = Counter(map(tuple, draw.multinomial(n, shares, runs).tolist()))
    for error in (0.05, 0.005):
        enough, wrong = math.log(1 / error), 0
        for counts, times in samples.items():
            scores = Counter({(1 + value) / 2: count for value, count in zip(values, counts, strict=True) if count})
            wrong += times * (sequential._capital(scores, truth) >= enough)
        assert wrong / runs <= error + 3 * math.sqrt(error / runs)


def test_the_sequence_of_a_mean_holds_at_all_times_at_once() -> None:
    draw, runs, misses = random.Random(6), 100, 0
    for _ in range(runs):
        seen: Counter[float] = Counter()
        for n in range(1, 201):
            seen[round(draw.betavariate(0.5, 1.5), 2)] += 1
            if n % 10 == 0 and sequential._capital(seen, 0.25) >= math.log(10):
                misses += 1
                break
    assert misses / runs <= 0.1 + 3 * math.sqrt(0.09 / runs)


def test_the_sequence_of_a_mean_narrows_to_it() -> None:
    draw = random.Random(9)
    values = [draw.betavariate(6, 2) for _ in range(2000)]
    low, high = sequential.mean_sequence(values, 0.05)
    assert 0.73 < low < 0.75 < high < 0.77
    assert sequential.mean_sequence([], 0.05) == (0.0, 1.0)
    assert sequential.mean_sequence([1.0] * 5, 0.05)[1] == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 39), st.floats(0, 1))
def test_a_value_that_falls_never_lifts_the_bound_of_a_mean(values: list[float], place: int, share: float) -> None:
    lower = list(values)
    lower[place % len(values)] *= share
    assert sequential.mean_sequence(lower, 0.05)[0] <= sequential.mean_sequence(values, 0.05)[0] + 1e-5


def test_one_point_takes_5400_items_at_five_percent_disagreement_and_10800_at_ten() -> None:
    assert round(sizes.items_needed(0.01, 0.05), -2) == 5400
    assert round(sizes.items_needed(0.01, 0.10), -2) == 10800


def test_320_items_at_eight_percent_disagreement_prove_a_margin_of_0_052() -> None:
    assert round(sizes.provable_margin(320, 0.08), 3) == 0.052
    assert sizes.provable_margin(0, 0.08) == 1.0


def test_the_items_that_power_asks_for_do_prove_the_margin() -> None:
    draw, n, passes = random.Random(5), sizes.items_needed(0.05, 0.08), 0
    for _ in range(500):
        low, _ = stats.paired_difference(*paired_draw(draw, n, (0.8, 0.04, 0.04)), 0.1)
        passes += low > -0.05
    assert passes / 500 >= 0.95 - 3 * math.sqrt(0.0475 / 500)


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.2])
def test_items_for_a_rate_are_the_fewest_faultless_ones(limit: float) -> None:
    n = sizes.items_for_rate(limit, 0.05)
    assert stats.upper_bound(0, n, 0.05) <= limit < stats.upper_bound(0, n - 1, 0.05)


@pytest.mark.slow
def test_the_sequence_holds_at_all_times_at_once() -> None:
    draw, misses, runs = random.Random(8), 0, 200
    for _ in range(runs):
        base = sum(draw.random() < 0.8 for _ in range(150))
        good = 0
        for n in range(1, 301):
            good += draw.random() < 0.75
            if n % 5 == 0 and sequential.log_evidence(sequential.Rates(good, n, base, 150), -0.05) >= math.log(20):
                misses += 1
                break
    assert misses / runs <= 0.05 + 3 * math.sqrt(0.0475 / runs)


def test_the_sequence_ends_where_its_evidence_does() -> None:
    rates = sequential.Rates(40, 60, 180, 200)
    low, high = sequential.difference_sequence(rates, 0.05)
    assert low < rates.difference < high
    for bound in (low, high):
        assert sequential.log_evidence(rates, bound) == pytest.approx(math.log(20), abs=1e-4)
    assert sequential.difference_sequence(sequential.Rates(0, 0, 5, 5), 0.05) == (-1.0, 1.0)
