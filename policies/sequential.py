"""What may be looked at as often as one likes: evidence and confidence sequences that hold at all times at once.

Owns: the sequential test of two streams of yes/no votes, and the confidence sequence of a bounded mean. Refuses to know
who votes or scores. Called by `policies.watch` and `policies.stats`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

STAKES = tuple(0.98 / 2**k for k in range(6))  # shares of the capital that are bet, from bold to careful


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


def mean_sequence(values: Sequence[float], error: float) -> tuple[float, float]:
    """Confidence sequence of the mean of values in [0, 1]: at all times at once, each side errs at most `error` / 2.

    A bettor who stakes a share of his capital on every next value being above m can't get rich while the mean is m; his
    capital, averaged over several shares, rules out every m at which it has grown to 2 / `error`. Waudby-Smith & Ramdas
    2024, JRSS B 86:1 (betting, grid of stakes). It holds for any number of values however skewed, does not depend on
    their order, and no value that falls ever lifts a bound.
    """
    return _least_mean(values, error / 2), 1 - _least_mean([1 - value for value in values], error / 2)


def _least_mean(values: Sequence[float], error: float) -> float:
    """The smallest mean that isn't ruled out from below."""
    counted, low = Counter(values), 0.0
    high = math.fsum(values) / len(values) if values else 0.0
    for _ in range(20):
        middle = (low + high) / 2
        if _capital(counted, middle) >= math.log(1 / error):
            low = middle
        else:
            high = middle
    return low


def _capital(counted: Counter[float], mean: float) -> float:
    """Log of the average capital after all bets against "the mean is at most `mean`"."""
    if mean <= 0:
        return math.inf if any(value > 0 for value in counted) else 0.0
    grown = [
        math.fsum(times * math.log1p(stake * (value / mean - 1)) for value, times in counted.items())
        for stake in STAKES
    ]
    most = max(grown)
    return most + math.log(math.fsum(math.exp(log - most) for log in grown) / len(grown))
