"""Improvement: the candidate answers better where users had said what they wanted.

Owns: the claim of a gain. Knows nothing of records or how answers were compared. Ratings of the champion's answers
can't score a candidate, so only records with a reference count. Called by `policies.gates.judge_all`. Reads probe
`improvement`, set `judge`, where every question stands once.
"""

from dataclasses import dataclass

from policies.evidence import failed, paired, verdict
from policies.model import Claim, Evidence, Result, Verdict
from policies.stats import paired_difference
from policies.words import count, interval

VERSION = 2
LOOSER = {"minimum": "lower", "gain": "lower", "error_rate": "higher", "enabled": "off"}


@dataclass(frozen=True, slots=True)
class Options:
    """`minimum`: judge records with a reference below which nothing is proven. `gain`: to be exceeded, points of 1.

    `error_rate`: one-sided error of the claim, over all candidates of a window.
    `enabled`: false switches the gate off, which the evidence then says.
    """

    minimum: int = 20
    gain: float = 0.0
    error_rate: float = 0.05
    enabled: bool = True


def judge(candidate: Evidence, champion: Evidence, anchor: Evidence | None, options: Options) -> Verdict:  # noqa: ARG001
    """Pass when the lower bound of the paired gain lies above `gain`.

    Interval: Tango 1998 (fractional scores: Waudby-Smith & Ramdas 2024).
    """
    pairs, problem = paired(candidate, champion, "improvement")
    if problem:
        return failed("improvement", VERSION, problem)
    n = len(pairs)
    low, high = paired_difference([p.candidate for p in pairs], [p.champion for p in pairs], 2 * options.error_rate)
    gain = sum(pair.gain for pair in pairs) / n
    seen = f"{interval(gain, low, high)} on {count(n, 'judge record')}"
    if high < options.gain:
        result, note = Result.FAIL, f"{seen}: proven to be no gain"
    elif n < options.minimum:
        result, note = Result.INCONCLUSIVE, f"{seen}: fewer than {count(options.minimum)}"
    elif low > options.gain:
        result, note = Result.PASS, seen
    else:
        result, note = Result.INCONCLUSIVE, f"{seen}: no gain is proven"
    claim = Claim("gain", result, n, gain, low, high, options.gain, 2 * options.error_rate, note)
    return verdict("improvement", VERSION, [claim])
