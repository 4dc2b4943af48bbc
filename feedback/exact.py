"""Exact p-values of a histogram's difference: what holds where a slice has few values and many are looked at.

Owns: the tests and their correction. Refuses to know columns and thresholds. Called by `feedback.drift.psi`.

The distributions that χ² and a difference of rates are compared with are those of large samples. At two hundred values
and the small levels that many slices leave to each, they err: measured under no change, a p-value below 1e-5 came 2 to 4
times as often as it says from χ², up to 30 times from the difference of two rates near 1. Fisher's test has no such
limit: given the margins of a two by two table, its counts are hypergeometric (Fisher 1935, "The logic of inductive
inference"). A histogram is as many such tables as it has bins, and the smallest of their p-values times their number is
one for the whole, however they depend on each other (Bonferroni).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

Counts = NDArray[np.int64]


def fewer(before: tuple[float, float], now: tuple[float, float]) -> float:
    """The one-sided p-value of fewer hits now; each side is (hits, misses)."""
    (hits, misses), (mine, others) = (tuple(map(round, side)) for side in (before, now))
    return float(_at_most(np.array([mine]), np.array([hits + mine]), mine + others, hits + misses + mine + others)[0])


def categories(before: Sequence[float], now: Sequence[float]) -> float:
    """The two-sided p-value of any category's share having changed; counts by category, in the same order."""
    return _corrected(*_sides(before, now))


def ordered(before: Sequence[float], now: Sequence[float]) -> float:
    """The same for bins in order: also of all up to a bin against all above, which sees what moves many bins a little."""
    old, new = _sides(before, now)
    return _corrected(np.concatenate([old, np.cumsum(old)[:-1]]), np.concatenate([new, np.cumsum(new)[:-1]]), old, new)


def _sides(before: Sequence[float], now: Sequence[float]) -> tuple[Counts, Counts]:
    old, new = (np.rint(np.asarray(side, dtype=np.float64)).astype(np.int64) for side in (before, now))
    return old, new


def _corrected(old: Counts, new: Counts, all_old: Counts | None = None, all_new: Counts | None = None) -> float:
    n, m = (int((one if every is None else every).sum()) for one, every in ((old, all_old), (new, all_new)))
    tables = (old + new > 0) & (old + new < n + m)  # what is everywhere or nowhere can't have changed
    if not tables.any():
        return 1.0
    hits, total = (old + new)[tables], n + m
    few = _at_most(new[tables], hits, m, total)
    many = _at_most(hits - new[tables], hits, n, total)
    return float(min(1.0, 2 * np.minimum(few, many).min() * int(tables.sum())))


def _at_most(mine: Counts, hits: Counts, drawn: int, total: int) -> NDArray[np.float64]:
    """The chance of at most `mine` hits among `drawn` of `total`, of which `hits` are some."""
    return np.asarray(hypergeom.cdf(mine, total, hits, drawn), dtype=np.float64)
