"""Regression: the candidate is not worse than the champion on the goldens, nor has it crept away from the anchor.

Owns: the claims, their margins, the slices, the flips. Knows nothing of models, files or how items were scored, but that
a judge model that scored some must be known to err little. Called by `policies.gates.judge_all`. Reads probe `goldens`
and, where items were put to a judge, `goldens_judge_error` and `goldens_judge_labels` (on how many answers it is one).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from policies.evidence import Key, Pair, failed, paired, read, verdict
from policies.model import Claim, Evidence, Result, Verdict
from policies.sizes import items_for_rate, items_needed
from policies.stats import holm, mcnemar, paired_difference, upper_bound
from policies.words import about, count, interval, listed, percent

VERSION = 4


LOOSER = {
    "margin": "higher",
    "cumulative_margin": "higher",
    "error_rate": "higher",
    "harm_error_rate": "lower",
    "flips": "higher",
    "judge_error": "higher",
    "enabled": "off",
}
NAMED = 3  # slices in a sentence
UNPROVEN = "unproven, too small to show harm"
JUDGE_ERROR, JUDGE_LABELS = "goldens_judge_error", "goldens_judge_labels"


@dataclass(frozen=True, slots=True)
class Options:
    """`margin`: largest loss of score against the champion that still counts as equal, points of 1 (0.01: one point).

    `cumulative_margin`: the same against the anchor. `error_rate`: one-sided error of each claim, over all candidates
    that meet the set. `harm_error_rate`: of "this slice is harmed", all slices of a candidate together.
    `flips`: largest share of items that the champion had right and the candidate has wrong.
    `judge_error`: highest error of a judge model that scored items, by its upper bound at `error_rate` on the answers that
    a person labelled; with more than that it proves nothing.
    `enabled`: false switches the gate off, which the evidence then says.
    """

    margin: float = 0.02
    cumulative_margin: float = 0.04
    error_rate: float = 0.05
    harm_error_rate: float = 0.05
    flips: float = 0.1
    judge_error: float = 0.1
    enabled: bool = True


def judge(candidate: Evidence, champion: Evidence, anchor: Evidence | None, options: Options) -> Verdict:
    """Non-inferiority on paired items: pass when the whole interval of the difference lies above -margin.

    Interval: Tango 1998 (fractional scores: Waudby-Smith & Ramdas 2024). Slices: exact McNemar, Holm 1979. A judge's
    error: Clopper & Pearson 1934, one-sided.
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
    erring, problem = _judge_error((candidate, champion, *((anchor,) if anchor is not None else ())), options)
    if problem:
        return failed("regression", VERSION, problem)
    claims += erring
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


def _judge_error(versions: Iterable[Evidence], options: Options) -> tuple[list[Claim], str]:
    """What is claimed of the judge's error, the worst that was measured beside any version; none where it scored none.

    The same answers were labelled for every version, so that together they would count twice.
    """
    found = []
    for version in versions:
        labelled, problem = _labelled(version)
        if problem:
            return [], problem
        found.append(labelled)
    if any(each.keys() != found[0].keys() for each in found):
        return [], "the judge scored other items for one version than for another"
    if not found[0]:
        return [], ""
    sums = [(sum(wrong for wrong, _ in each.values()), sum(n for _, n in each.values())) for each in found]
    high, wrong, n = max((upper_bound(wrong, n, options.error_rate), wrong, n) for wrong, n in sums)
    limit, rate = options.judge_error, wrong / n
    note = f"the judge erred on {wrong} of {count(n, 'labelled answer')}; upper bound {percent(high)}"
    note += f", limit {percent(limit)}"
    result = Result.PASS
    if high > limit:
        result = Result.FAIL if rate > limit else Result.INCONCLUSIVE
        note += ": what it scored proves nothing"
        if result is Result.INCONCLUSIVE and limit > 0:
            note += f"; {count(items_for_rate(limit, options.error_rate))} answers without an error would prove it"
    return [Claim("judge error", result, n, rate, 0.0, high, limit, 2 * options.error_rate, note)], ""


def _labelled(version: Evidence) -> tuple[dict[Key, tuple[int, int]], str]:
    """(errors, labelled answers) of the judge by the item that it scored, and what is wrong with them."""
    (plan, bad), (errors, worse), (labels, worst) = (read(version, p) for p in ("plan", JUDGE_ERROR, JUDGE_LABELS))
    planned = sum(row.value for (_, item), row in plan.items() if item == "judged")
    problem = bad or worse or worst
    if not problem and (len(errors) != planned or errors.keys() != labels.keys()):
        of = f"{len(errors.keys() & labels.keys())} of {planned:g} items that a judge scored"
        problem = f"how often it errs was measured on {of} for {version.version}"
    found = {}
    for key, row in () if problem else sorted(errors.items()):
        n = labels[key].value
        if n < 1 or n != int(n) or not 0 <= row.value <= 1:
            return {}, f"{JUDGE_ERROR} {key[0]}/{key[1]} of {version.version} is no share of labelled answers"
        found[key] = (math.ceil(row.value * n - 1e-9), int(n))
    return found, problem


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
