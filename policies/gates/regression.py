"""Regression: the candidate is not worse than the champion on the goldens, nor has it crept away from the anchor.

Owns: the claims, their margins, the slices, the flips. Knows nothing of models, files or how items were scored.
Called by: `policies.gates.judge_all`. Reads probe `goldens`.
"""

from dataclasses import dataclass, replace

from policies.evidence import Pair, failed, paired, verdict
from policies.model import Claim, Evidence, Result, Verdict
from policies.sizes import items_needed
from policies.stats import holm, mcnemar, paired_difference
from policies.words import about, count, interval, listed, percent

VERSION = 3


LOOSER = {
    "margin": "higher",
    "cumulative_margin": "higher",
    "error_rate": "higher",
    "harm_error_rate": "lower",
    "flips": "higher",
    "enabled": "off",
}
NAMED = 3  # slices in a sentence
UNPROVEN = "unproven, too small to show harm"


@dataclass(frozen=True, slots=True)
class Options:
    """`margin`: largest loss of score against the champion that still counts as equal, points of 1 (0.01: one point).

    `cumulative_margin`: the same against the anchor. `error_rate`: one-sided error of each claim, over all candidates
    that meet the set. `harm_error_rate`: of "this slice is harmed", all slices of a candidate together.
    `flips`: largest share of items that the champion had right and the candidate has wrong.
    `enabled`: false switches the gate off, which the evidence then says.
    """

    margin: float = 0.02
    cumulative_margin: float = 0.04
    error_rate: float = 0.05
    harm_error_rate: float = 0.05
    flips: float = 0.1
    enabled: bool = True


def judge(candidate: Evidence, champion: Evidence, anchor: Evidence | None, options: Options) -> Verdict:
    """Non-inferiority on paired items: pass when the whole interval of the difference lies above -margin.

    Interval: Tango 1998 (fractional scores: Waudby-Smith & Ramdas 2024). Slices: exact McNemar, Holm 1979.
    """
    pairs, problem = paired(candidate, champion, "goldens")
    if problem:
        return failed("regression", VERSION, problem)
    claims = [margin_claim("champion", pairs, options.margin, options.error_rate)]
    if anchor is not None:
        behind, problem = paired(candidate, anchor, "goldens")
        if problem:
            return failed("regression", VERSION, f"against the anchor: {problem}")
        claims.append(margin_claim("anchor", behind, options.cumulative_margin, options.error_rate))
    claims.append(_flips(pairs, options.flips))
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.slice or pair.set, []).append(pair)
    return listing(verdict("regression", VERSION, claims + slice_claims(groups, options.harm_error_rate)))


def margin_claim(against: str, pairs: tuple[Pair, ...], margin: float, error: float) -> Claim:
    """Whether the loss against `against` is proven to stay within `margin` (one-sided `error`)."""
    n = len(pairs)
    low, high = paired_difference([p.candidate for p in pairs], [p.champion for p in pairs], 2 * error)
    gain = sum(pair.gain for pair in pairs) / n
    seen = f"{interval(gain, low, high)} against the {against}"
    if low > -margin:
        result, note = Result.PASS, f"{seen}, margin {100 * margin:g}"
    elif high < -margin:
        result, note = Result.FAIL, f"{seen}: worse by more than the margin of {100 * margin:g}"
    else:
        discordance = sum(pair.gain**2 for pair in pairs) / n
        more = f"; about {about(items_needed(margin, discordance, error))} would" if margin > 0 else ""
        result, note = Result.INCONCLUSIVE, f"{seen}: {count(n)} items can't prove {100 * margin:g}{more}"
    return Claim(f"margin against {against}", result, n, gain, low, high, -margin, 2 * error, note)


def _flips(pairs: tuple[Pair, ...], limit: float) -> Claim:
    n, lost = len(pairs), sum(pair.candidate < 0.5 <= pair.champion for pair in pairs)
    note = f"{lost} of {count(n)} items went from right to wrong, limit {percent(limit)}"
    return Claim("flips", Result.FAIL if lost / n > limit else Result.PASS, n, lost / n, limit=limit, note=note)


def slice_claims(groups: dict[str, list[Pair]], error: float) -> list[Claim]:
    """One claim a slice: refused where harm is proven with all slices considered, `unproven` where it is too small.

    A set that is a single slice has none: the claim about the whole, with its margin, has spoken of every item already.
    """
    names = sorted(groups) if len(groups) > 1 else []
    lost = [sum(pair.gain < 0 for pair in groups[name]) for name in names]
    won = [sum(pair.gain > 0 for pair in groups[name]) for name in names]
    p_values = [mcnemar(worse, better) for worse, better in zip(lost, won, strict=True)]
    claims = []
    for i, harmed in enumerate(holm(p_values, error)):
        items = groups[names[i]]
        n, gain = len(items), sum(pair.gain for pair in items) / len(items)
        note = f"slice {names[i]}: {lost[i]} lost, {won[i]} won of {n}"
        if harmed:
            note += f": harm is proven (p {p_values[i]:.3g}, {len(names)} slices)"
        elif 0.5**n > error / len(names):
            note += f": {UNPROVEN}"
        result = Result.FAIL if harmed else Result.PASS
        claims.append(Claim(f"slice {names[i]}", result, n, gain, error_rate=error, note=note))
    return claims


def listing(found: Verdict) -> Verdict:
    """The verdict, where it passed with the slices of which it says nothing named in its sentence."""
    small = [claim.name.removeprefix("slice ") for claim in found.claims if claim.note.endswith(UNPROVEN)]
    if found.result is not Result.PASS or not small:
        return found
    named = listed(small[:NAMED] + ([f"{count(len(small) - NAMED)} more"] if len(small) > NAMED else []))
    return replace(found, reason=f"{found.reason}; {UNPROVEN}: {named}")
