"""Intervals and exact tests on a sample of a fixed size: what every rule that says "proven" stands on.

Owns: the formulas, each with its paper. Refuses to know what is compared and which margin counts. Called by
`policies.gates` and `feedback.drift`. Rates and scores are points of 1; `error` is two-sided for intervals unless said.
How many items it takes is told by `policies.sizes`, what may be looked at again and again by `policies.sequential`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from policies.sequential import mean_sequence


def quantile(probability: float) -> float:
    """The standard normal quantile."""
    return NormalDist().inv_cdf(probability)


def wilson(good: float, n: float, error: float) -> tuple[float, float]:
    """Interval of a rate; (0, 1) without observations. Wilson 1927, JASA 22."""
    if n <= 0:
        return 0.0, 1.0
    z = quantile(1 - error / 2)
    rate, spread = good / n, z * z / n
    centre = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(max(0.0, rate * (1 - rate) / n + spread / (4 * n)))
    return max(0.0, centre - half), min(1.0, centre + half)


def clopper_pearson(events: int, n: int, error: float) -> tuple[float, float]:
    """Exact interval of a rate: each side errs at most `error` / 2. Clopper & Pearson 1934, Biometrika 26."""
    return lower_bound(events, n, error / 2), upper_bound(events, n, error / 2)


def upper_bound(events: int, n: int, error: float) -> float:
    """Exact one-sided upper bound of a rate; 1 without observations. Clopper & Pearson 1934."""
    from scipy.stats import beta

    return 1.0 if n <= 0 or events >= n else float(beta.ppf(1 - error, events + 1, n - events))


def lower_bound(events: int, n: int, error: float) -> float:
    """Exact one-sided lower bound of a rate; 0 without observations. Clopper & Pearson 1934."""
    from scipy.stats import beta

    return 0.0 if n <= 0 or events <= 0 else float(beta.ppf(error, events, n - events + 1))


@dataclass(frozen=True, slots=True)
class Table:
    """Paired yes/no answers of two versions on the same items: `both` right, only the first, only the second, none."""

    both: int
    first: int
    second: int
    neither: int

    @property
    def n(self) -> int:
        """Items."""
        return self.both + self.first + self.second + self.neither


def newcombe(table: Table, error: float) -> tuple[float, float]:
    """Interval of rate(first) - rate(second) on paired items; (-1, 1) without any.

    Newcombe 1998, Statistics in Medicine 17:2635, method 10 (Wilson limits, continuity-corrected correlation).
    """
    n = table.n
    if n == 0:
        return -1.0, 1.0
    a, b, c, d = table.both, table.first, table.second, table.neither
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = wilson(a + b, n, error), wilson(a + c, n, error)
    product = math.sqrt(float(a + b) * (c + d) * (a + c) * (b + d))
    cross = float(a * d - b * c)
    corrected = max(cross - n / 2, 0.0) if cross > 0 else cross
    phi = corrected / product if product else 0.0
    below = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    above = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    gap = p1 - p2
    return max(-1.0, gap - math.sqrt(max(0.0, below))), min(1.0, gap + math.sqrt(max(0.0, above)))


def tango(table: Table, error: float) -> tuple[float, float]:
    """Interval of rate(first) - rate(second) on paired items; (-1, 1) without any.

    All differences that the score test doesn't reject: Tango 1998, Statistics in Medicine 17:891. It keeps its error
    where `newcombe` exceeds it by up to a tenth (large sets, few disagreements), at the same price without any
    disagreement: z² / (n + z²).
    """
    if table.n == 0:
        return -1.0, 1.0
    z = quantile(1 - error / 2)
    return _where(table, z, -1.0), _where(table, -z, 1.0)


def _where(table: Table, wanted: float, outside: float) -> float:
    """The difference between the seen one and `outside` at which the score statistic is `wanted`."""
    inside = (table.first - table.second) / table.n
    edge = outside
    for _ in range(40):
        middle = (inside + edge) / 2
        beyond = _score(table, middle) < wanted if wanted > 0 else _score(table, middle) > wanted
        inside, edge = (middle, edge) if beyond else (inside, middle)
    return edge


def _score(table: Table, difference: float) -> float:
    """The score statistic of "rate(first) - rate(second) is `difference`", its variance estimated under just that."""
    n, b, c = table.n, table.first, table.second
    linear = (2 * n - b + c) * difference - b - c
    root = math.sqrt(max(0.0, linear * linear + 8 * n * c * difference * (1 - difference)))
    only_second = max(0.0, (root - linear) / (4 * n))
    variance = n * (2 * only_second + difference * (1 - difference))
    gap = b - c - n * difference
    return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0


def mean_difference(differences: Sequence[float], error: float, groups: Sequence[str] = ()) -> tuple[float, float]:
    """Interval of the mean of paired differences in [-1, 1]; (-1, 1) without any, or with a single group.

    `groups` names what each difference belongs to where several are no independent news (one question asked by many):
    their sums vary, not they. Liang & Zeger 1986, Biometrika 73:13, with Student's t on one degree of freedom less than
    there are groups. Two differences of a group of their own with mean 0 and square sum 1 are added, so that it never
    shrinks to 0: Agresti & Min 2005, Statistics in Medicine 24:729, carried over from shares to fractional scores.
    """
    from scipy.stats import t

    sums: dict[str, list[float]] = {}
    for place, value in enumerate(differences):
        sums.setdefault(groups[place] if groups else str(place), []).append(value)
    many = len(sums) + 2
    if not differences or (groups and len(sums) < 2):
        return -1.0, 1.0
    n = len(differences) + 2
    mean = math.fsum(differences) / n
    spread = [math.fsum(values) - len(values) * mean for values in sums.values()]
    added = sum((value - mean) ** 2 for value in (math.sqrt(0.5), -math.sqrt(0.5)))
    variance = (math.fsum(value * value for value in spread) + added) * many / (many - 1)
    half = float(t.ppf(1 - error / 2, many - 1)) * math.sqrt(variance) / n
    return max(-1.0, mean - half), min(1.0, mean + half)


def paired_difference(first: Sequence[float], second: Sequence[float], error: float) -> tuple[float, float]:
    """Interval of mean(first) - mean(second), scores in [0, 1] on the same items in the same order.

    Yes/no scores: `tango`. Fractional ones: `sequential.mean_sequence`, since losses that are rare and large are skewed,
    and an interval by the normal distribution is wrong several times as often as it says at the small errors of a ledger.
    """
    pairs = list(zip(first, second, strict=True))
    if any(value not in (0.0, 1.0) for pair in pairs for value in pair):
        low, high = mean_sequence([(1 + a - b) / 2 for a, b in pairs], error)
        return 2 * low - 1, 2 * high - 1
    cells = [0, 0, 0, 0]
    for a, b in pairs:
        cells[(0 if b else 1) if a else (2 if b else 3)] += 1
    return tango(Table(*cells), error)


def mean_interval(values: Sequence[float], error: float) -> tuple[float, float]:
    """Interval of a mean by Student's t; unbounded below two values."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return -math.inf, math.inf
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(t.ppf(1 - error / 2, n - 1)) * deviation / math.sqrt(n)
    return mean - half, mean + half


def mcnemar(worse: int, better: int, *, two_sided: bool = False) -> float:
    """Exact p-value of `worse` against `better` discordant items under "as often as not"; 1 without any.

    One-sided: how surprising at least `worse` of them would be. McNemar 1947, exact binomial form.
    """
    from scipy.stats import binom

    n = worse + better
    if n == 0:
        return 1.0
    more = float(binom.sf(worse - 1, n, 0.5))
    if not two_sided:
        return min(1.0, more)
    return min(1.0, 2 * min(more, float(binom.cdf(worse, n, 0.5))))


def holm(p_values: Sequence[float], error: float) -> tuple[bool, ...]:
    """Which hypotheses are rejected when all together may err once in 1 / `error`. Holm 1979, Scand. J. Stat. 6."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if not p_values[index] <= error / (len(p_values) - rank):
            break
        rejected[index] = True
    return tuple(rejected)
