"""After a promotion: settled, regressed, unproven, or not decided yet.

Owns: when live ratings of the new version are enough, looked at as often as one likes. Refuses to know where votes come
from. Called by `policies.decide`.
"""

import math
from dataclasses import dataclass

from policies.model import WatchView
from policies.policy import WatchRule
from policies.sequential import Rates, difference_sequence, log_evidence
from policies.words import about, count, duration, interval, percent

HOUR = 3600.0
MOST_VOTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Judgement:
    """`state`: settled, regressed, unproven or undecided; [low, high] bounds the change of the good-rating rate.

    `more`: about how many further votes decide at the rates seen so far (None: more votes of this kind never would).
    """

    state: str
    reason: str
    estimate: float
    low: float
    high: float
    more: int | None = None


def judge(view: WatchView, rule: WatchRule, now: float) -> Judgement:
    """Compare the new version's ratings with `before`, at any time and any number of times.

    Regressed: the loss is proven to be larger than the margin. Settled: it is proven to be smaller, with enough votes
    and hours. Each is wrong with probability at most `error_rate`, however often one looks (`sequential.log_evidence`), as
    long as users keep the vote they gave.
    """
    rates = Rates(view.now.good, view.now.n, view.before.good, view.before.n)
    low, high = difference_sequence(rates, rule.error_rate)
    gone = now - view.promoted_at
    seen = _seen(view, rates.difference, low, high)
    if high < -rule.margin:
        return Judgement("regressed", f"proven worse: {seen}", rates.difference, low, high, 0)
    waits = []
    if view.now.n < rule.minimum_votes:
        waits.append(f"{count(rule.minimum_votes - view.now.n)} more ratings to the minimum")
    if gone < rule.minimum_hours * HOUR:
        waits.append(f"{duration(gone)} of at least {duration(rule.minimum_hours * HOUR)}")
    if low > -rule.margin and not waits:
        return Judgement("settled", f"proven no worse: {seen}", rates.difference, low, high, 0)
    if gone >= rule.deadline_hours * HOUR:
        late = f"unproven after {duration(rule.deadline_hours * HOUR)}: {seen}"
        return Judgement("unproven", late, rates.difference, low, high)
    more = 0 if low > -rule.margin else needed(rates, rule)
    if more is None:
        waits.append("more ratings at this rate would not decide")
    elif more:
        waits.append(f"about {about(more)} more decide")
    ratings = f"{count(view.now.n, 'rating')} of the new version"
    good = f", {percent(view.now.good / view.now.n)} good" if view.now.n else ""
    reason = "; ".join([f"{ratings}{good}", *waits])
    return Judgement("undecided", reason, rates.difference, low, high, more)


def _seen(view: WatchView, estimate: float, low: float, high: float) -> str:
    if not view.now.n or not view.before.n:
        return f"{count(view.now.n, 'rating')} of the new version, {count(view.before.n)} to compare with"
    now, before = view.now.good / view.now.n, view.before.good / view.before.n
    against = "concurrent traffic" if view.controlled else "the baseline, uncontrolled"
    return (
        f"{percent(now)} of {count(view.now.n, 'rating')} good, {percent(before)} of {count(view.before.n)} before"
        f" ({against}): {interval(estimate, low, high)}"
    )


def needed(rates: Rates, rule: WatchRule) -> int | None:
    """About how many more votes at the rate seen so far decide either way, in round numbers; None: no number would."""
    if not rates.first_n or not rates.second_n:
        return None
    share = rates.first_good / rates.first_n

    def decides(votes: float) -> bool:
        later = Rates(share * votes, votes, rates.second_good, rates.second_n)
        return log_evidence(later, -rule.margin) >= math.log(1 / rule.error_rate)

    if not decides(MOST_VOTES):
        return None
    few, enough = rates.first_n, float(MOST_VOTES)
    while enough - few > max(1.0, enough / 50):
        middle = (few * enough) ** 0.5 if few > 0 else enough / 2
        few, enough = (few, middle) if decides(middle) else (middle, enough)
    return max(1, round(enough - rates.first_n))
