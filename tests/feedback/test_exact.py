"""Exact p-values are Fisher's, hold their level in small samples, and see what is there."""

import numpy as np
import pytest
from scipy.stats import fisher_exact

from feedback import exact

SHARES = [0.4, 0.2, 0.12, 0.08, 0.06, 0.05, 0.04, 0.03, 0.01, 0.01]


@pytest.mark.parametrize(("before", "now"), [((900, 100), (150, 50)), ((9, 1), (3, 4)), ((970, 30), (200, 0))])
def test_fewer_good_ones_is_fishers_one_sided_test(before: tuple[int, int], now: tuple[int, int]) -> None:
    expected = fisher_exact([before, now], alternative="greater").pvalue
    assert exact.fewer(before, now) == pytest.approx(expected, rel=1e-9)


def test_two_categories_are_one_table_and_its_sides_are_both_looked_at() -> None:
    sides = [fisher_exact([(80, 20), (30, 20)], alternative=one).pvalue for one in ("less", "greater")]
    # Two tables, of which one says what the other does.
    assert exact.categories([80, 20], [30, 20]) == pytest.approx(min(1.0, 2 * 2 * min(sides)))


@pytest.mark.parametrize("level", [0.05, 0.005])
@pytest.mark.slow
def test_nothing_that_changed_is_seldom_called_changed_in_small_samples(level: float) -> None:
    draw = np.random.default_rng(1)
    for test in (exact.categories, exact.ordered):
        found = [test(draw.multinomial(400, SHARES), draw.multinomial(60, SHARES)) <= level for _ in range(1000)]
        assert sum(found) <= 1000 * level


def test_a_shift_of_many_bins_is_seen_in_order_though_no_bin_shows_it() -> None:
    before, now = [1000] * 10, [14, 14, 14, 14, 14, 26, 26, 26, 26, 26]
    assert exact.ordered(before, now) < 1e-3 < exact.categories(before, now)


def test_a_new_category_is_proven_and_nothing_to_compare_is_not() -> None:
    assert exact.categories([200, 0], [180, 20]) < 1e-4
    assert exact.categories([200], [100]) == exact.categories([0, 0], [0, 0]) == 1.0
