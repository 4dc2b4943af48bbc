"""The ledger: which share of a gate's error rate a candidate may spend on items that others have met before it.

Candidates learn one thing of a set: their verdict. As long as it is no, there is one history, so that the chance that any
of the bad ones ever passes is at most the sum of their shares times the error rate. Owns: the shares, and that their sum
never exceeds 1. Refuses to know who met what (`daemon.ledger` keeps it). Called by `policies.gates`, `daemon.judging`
and `daemon.audit.replay`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from policies.model import Claim, Result
from policies.words import percent


@dataclass(frozen=True, slots=True)
class Share:
    """The `number`-th candidate on its items may spend `share` of the error rate; `left` is there after it."""

    number: int
    share: float
    left: float


def of_set(spent: Sequence[float], candidates: float) -> Share:
    """The next share on a set that is met again and again: one (`candidates` + number)-th of what is left.

    A fraction of what is left can't exceed it, so the sum stays below 1 over any number of candidates, also where
    `candidates` changes in between. Unchanged, the k-th share is N / ((N + k - 1)(N + k)): half is spent after N.
    Alpha-spending over a stream of hypotheses: Foster & Stine 2008, JRSS B 70:429.
    """
    left, number = _left(spent), len(spent) + 1
    return _take(left, number, left / (max(1.0, candidates) + number))


def of_window(spent: Sequence[float], tries: int) -> Share:
    """The next share on the judge records of one window, which buys `tries` candidates: equal shares (Bonferroni)."""
    left, number = _left(spent), len(spent) + 1
    return _take(left, number, left / (tries - len(spent)) if len(spent) < tries else 0.0)


def charged(policy_gates: Mapping[str, Any], shares: Mapping[str, Share]) -> dict[str, Any]:
    """The gates' options with the error rate that each share leaves of it. `harm_error_rate` stays: less error there
    would be more doubt in favour of the candidate."""
    return {
        name: replace(options, error_rate=options.error_rate * shares[name].share) if name in shares else options
        for name, options in policy_gates.items()
    }


def claim(share: Share, error_rate: float) -> Claim:
    """What the evidence says of it; `error_rate` is the policy's, for all candidates together."""
    note = (
        f"candidate {share.number} on these items: {percent(share.share)} of the error rate of {percent(error_rate)}"
        f" spent, {percent(share.left)} left"
    )
    return Claim("ledger", Result.PASS, share.number, share.share, error_rate=error_rate, note=note)


def _left(spent: Sequence[float]) -> float:
    return max(0.0, 1.0 - math.fsum(spent))


def _take(left: float, number: int, share: float) -> Share:
    return Share(number, share, max(0.0, left - share))
