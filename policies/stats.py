"""Intervals, exact tests, power and the sequential test: what every rule that says "proven" stands on.

Owns: the formulas, each with its paper. Refuses to know what is compared and which margin counts. Called by
`policies.gates`, `policies.watch`. Rates and scores are points of 1; `error` is two-sided for intervals unless said.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


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


def mean_difference(differences: Sequence[float], error: float) -> tuple[float, float]:
    """Interval of the mean of paired differences in [-1, 1]; (-1, 1) without any.

    Agresti & Min 2005, Statistics in Medicine 24:729, for paired shares (half an item added to each of the four cells),
    carried over to fractional scores: two items with mean 0 and square sum 1 are added, so that it never shrinks to 0.
    """
    if not differences:
        return -1.0, 1.0
    n = len(differences) + 2
    mean = math.fsum(differences) / n
    variance = (math.fsum(d * d for d in differences) + 1) / n - mean * mean
    half = quantile(1 - error / 2) * math.sqrt(max(0.0, variance) / n)
    return max(-1.0, mean - half), min(1.0, mean + half)


def paired_difference(first: Sequence[float], second: Sequence[float], error: float) -> tuple[float, float]:
    """Interval of mean(first) - mean(second), scores in [0, 1] on the same items in the same order.

    Yes/no scores: `newcombe`; fractional ones: `mean_difference`.
    """
    pairs = list(zip(first, second, strict=True))
    if any(value not in (0.0, 1.0) for pair in pairs for value in pair):
        return mean_difference([a - b for a, b in pairs], error)
    cells = [0, 0, 0, 0]
    for a, b in pairs:
        cells[(0 if b else 1) if a else (2 if b else 3)] += 1
    return newcombe(Table(*cells), error)


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


def items_needed(margin: float, discordance: float, error: float = 0.05, power: float = 0.95) -> int:
    """Paired items that prove `margin` (one-sided `error`) with `power` when both are equally good.

    n = (z_error + z_power)² · discordance / margin²: Liu, Hsueh, Hsieh & Chen 2002, Statistics in Medicine 21:231.
    """
    z = quantile(1 - error) + quantile(power)
    floor = quantile(1 - error) ** 2 * (1 - margin) / margin
    return math.ceil(max(z * z * discordance / margin**2, floor))


def provable_margin(n: int, discordance: float, error: float = 0.05, power: float = 0.95) -> float:
    """The smallest margin that `n` paired items can prove; 1 without any. The inverse of `items_needed`.

    Without any disagreement the Wilson limit of `newcombe` remains: z² / (n + z²).
    """
    if n <= 0:
        return 1.0
    z = quantile(1 - error)
    spread = math.sqrt((z + quantile(power)) ** 2 * max(0.0, discordance) / n)
    return min(1.0, max(spread, z * z / (n + z * z)))


def items_for_rate(limit: float, error: float) -> int:
    """Items without one event that prove a rate below `limit`: (1 - limit)^n <= error (Clopper & Pearson at zero)."""
    return math.ceil(math.log(error) / math.log1p(-limit)) if 0 < limit < 1 else 0


def _log_mixture(good: float, n: float) -> float:
    """Log marginal likelihood of `good` of `n` under a Beta(1/2, 1/2) mixture."""
    bad = n - good
    log_beta = math.lgamma(good + 0.5) + math.lgamma(bad + 0.5) - math.lgamma(n + 1)
    return log_beta - math.log(math.pi)


def _log_likelihood(good: float, n: float, rate: float) -> float:
    total = 0.0
    for times, share in ((good, rate), (n - good, 1 - rate)):
        if times > 0:
            total += times * math.log(share) if share > 0 else -math.inf
    return total


@dataclass(frozen=True, slots=True)
class Rates:
    """Good ones of two independent groups, `first` and `second`."""

    first_good: float
    first_n: float
    second_good: float
    second_n: float

    @property
    def difference(self) -> float:
        """rate(first) - rate(second); 0 while a group is empty."""
        if not self.first_n or not self.second_n:
            return 0.0
        return self.first_good / self.first_n - self.second_good / self.second_n


def log_evidence(rates: Rates, difference: float) -> float:
    """Log e-value against "rate(first) - rate(second) is `difference`", at any time, looked at as often as one likes.

    The product of two beta-binomial mixture martingales (Robbins 1970; Howard, Ramdas, McAuliffe & Sekhon 2021, Ann.
    Statist. 49), least over the pairs of rates with that difference (as in Turner, Ly & Grünwald 2024, JSPI 230). By
    Ville's inequality it ever reaches log(1 / error) with probability at most `error` when the difference is true. A
    group of fixed size is the same martingale stopped early.
    """
    low, high = max(0.0, -difference), min(1.0, 1 - difference)
    for _ in range(40):  # the likelihood is concave: halve the range in which its slope changes sign
        middle = (low + high) / 2
        if _slope(rates, middle + difference, middle) > 0:
            low = middle
        else:
            high = middle
    second = (low + high) / 2
    first = min(1.0, max(0.0, second + difference))
    mixture = _log_mixture(rates.first_good, rates.first_n) + _log_mixture(rates.second_good, rates.second_n)
    seen = _log_likelihood(rates.first_good, rates.first_n, first)
    return mixture - seen - _log_likelihood(rates.second_good, rates.second_n, second)


def _slope(rates: Rates, first: float, second: float) -> float:
    """Derivative of the log-likelihood when both rates rise together."""
    total = 0.0
    for good, n, rate in ((rates.first_good, rates.first_n, first), (rates.second_good, rates.second_n, second)):
        total += good / max(rate, 1e-12) - (n - good) / max(1 - rate, 1e-12)
    return total


def difference_sequence(rates: Rates, error: float) -> tuple[float, float]:
    """Confidence sequence of rate(first) - rate(second): covers the truth at all times at once but for `error`.

    All differences whose `log_evidence` stays below log(1 / error).
    """
    if not rates.first_n or not rates.second_n:
        return -1.0, 1.0
    enough = math.log(1 / error)
    bounds = []
    for outside in (-1.0, 1.0):
        inside, edge = rates.difference, outside
        if log_evidence(rates, edge) < enough:
            bounds.append(edge)
            continue
        for _ in range(24):
            middle = (inside + edge) / 2
            if log_evidence(rates, middle) < enough:
                inside = middle
            else:
                edge = middle
        bounds.append(edge)
    return bounds[0], bounds[1]
