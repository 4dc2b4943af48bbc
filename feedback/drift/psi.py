"""Cheap drift, always on: PSI of numbers and χ² of categories on frozen bins, and the rate of good ratings.

Owns: the statistics and when a column has drifted. Refuses to read rows: windows' sketches are enough. Called by
`daemon.looking` on every look.

A column has drifted when the difference is proven, large and lasting. Proven: the p-value of the whole window holds after
Holm's correction over all columns of the report, so that many columns don't alarm by chance. Large and lasting: in enough
of the window's blocks the effect is above a threshold, so that neither a million rows alarm over nothing nor one odd hour
over everything. The proof alone holds the error rate; the blocks can only lower it.

The reference is compared as it would look on the window's weekdays (`feedback.counts.like`). PSI between two samples of one
distribution isn't 0: it is about (1/n + 1/m) χ² with (bins - 1) degrees of freedom, so its mean is (bins - 1)(1/n + 1/m)
(Yurdakul & Naranjo 2020, "Statistical properties of the population stability index", J. of Risk Model Validation 14); that
mean is taken off the value, and that distribution gives its p-value: the reference's own sampling noise is in both.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.stats import chi2, chi2_contingency, norm

from feedback.counts import ColumnSketch, like
from feedback.sketch import OTHER
from feedback.windows import Window
from policies.model import DriftColumn, DriftReport
from policies.stats import holm, wilson

NAME = "psi"
NOTHING = ColumnSketch(0, {})


@dataclass(frozen=True, slots=True)
class Options:
    """`psi`: effect of a number above which it counts (0.1 moderate, 0.25 large), its bias taken off.

    `association`: the same for a category, Cramér's V in [0, 1] (0.2: about a twelfth of it is something new). `mean`:
    shift of the mean in standard deviations, for a number that mostly falls into one fixed bin. `rating`: loss of the
    rate of good ratings, points of 1. `error_rate`: chance of any alarm in one report while nothing changed; a look gets
    it from the policy's `false_alarms`. `agree`: blocks of the window that must show the effect; a look gets the policy's.
    `minimum`: values on each side below which the statistics don't hold; a policy's own minimum comes on top. `bins`: of
    a number, cut at quantiles of the reference. `ignore`: columns that are shown, not judged: the length of answers
    follows the version that answers, so a promotion alone would move it.
    """

    psi: float = 0.2
    association: float = 0.2
    mean: float = 0.5
    rating: float = 0.05
    error_rate: float = 0.01
    agree: int = 3
    minimum: int = 50
    bins: int = 10
    ignore: tuple[str, ...] = ("response_length",)


@dataclass(frozen=True, slots=True)
class _Test:
    """One column's comparison before the correction: `large` says that the effect is above its threshold."""

    column: DriftColumn
    p: float
    large: bool
    judged: bool = True


def measure(reference: Window, current: Window, options: Options) -> DriftReport:
    """Compare two windows of one kind, column by column; nothing is judged below `options.minimum` values.

    A window without blocks is its own only one. `value` of a column: PSI without its bias (psi), the p-value (chi2_p),
    standard deviations (mean_shift), or points of 1 (rate_difference).
    """
    blocks = current.blocks or (current,)
    need = options.agree if current.blocks else 1
    tests = _tests(reference, current, options) if len(blocks) >= need else []
    judged = [test for test in tests if test.judged]
    proven = holm([test.p for test in judged], options.error_rate)
    candidates = [test.column for test, is_proven in zip(judged, proven, strict=True) if is_proven]
    alarms = _lasting(candidates, reference, blocks, need, options)
    columns = tuple(alarms.get(test.column.column, test.column) for test in tests)
    drifted = [column for column in columns if column.drifted]
    reason = _reason(reference, current, drifted, bool(judged), options)
    if len(blocks) < need:
        reason = f"too few {current.kind} to compare: {len(current.blocks)} of {need} blocks are there"
    return DriftReport(
        detector=NAME,
        judged=bool(judged),
        drifted=bool(drifted),
        kind=current.kind if drifted else "",
        reason=reason,
        columns=columns,
        reference=(reference.first, reference.last),
        current=(current.first, current.last),
    )


def _lasting(
    columns: Sequence[DriftColumn], reference: Window, blocks: Sequence[Window], need: int, options: Options
) -> dict[str, DriftColumn]:
    """Of the columns whose difference is proven those with a large effect in enough blocks, since the first of these."""
    found = {}
    for column in columns:
        large = [block for block in blocks if _test(column.column, reference, block, options).large]
        if len(large) >= need:
            lasting = f"; large in {len(large)} of {len(blocks)} blocks" if len(blocks) > 1 else ""
            found[column.column] = replace(column, drifted=True, note=column.note + lasting, since=large[0].first + 1)
    return found


def _tests(reference: Window, current: Window, options: Options) -> list[_Test]:
    names = sorted({*reference.columns, *current.columns})
    return [_unless_few(_test(name, reference, current, options), reference, current, options) for name in names]


def _test(name: str, reference: Window, current: Window, options: Options) -> _Test:
    old, new = reference.columns.get(name, NOTHING), current.columns.get(name, NOTHING)
    if old.n and new.n:
        old = like(reference.days(name), current.days(name), options.minimum)
    if current.kind == "outcomes":
        return _rating(name, old, new, options)
    if old.n and new.n and old.numeric != new.numeric:
        return _incomparable(name, old, new, "numbers on one side, words on the other")
    return (_number if old.numeric else _category)(name, old, new, options)


def _unless_few(test: _Test, reference: Window, current: Window, options: Options) -> _Test:
    column, note = test.column, ""
    fewest = min(column.reference_n, column.current_n)
    if reference.records != current.records:
        note = f"not judged: the reference is made of {reference.records} records, this window of {current.records}"
    elif column.column in options.ignore:
        note = "not judged: ignored by the policy"
    elif fewest < options.minimum:
        note = f"not judged: {fewest} values on one side, {options.minimum} are needed"
    return replace(test, judged=False, column=replace(column, note=note)) if note else test


def _number(name: str, old: ColumnSketch, new: ColumnSketch, options: Options) -> _Test:
    cuts = _cuts(old.bins, options.bins)
    expected, observed = _binned(old.bins, cuts), _binned(new.bins, cuts)
    if 2 * max(expected) > sum(expected):
        return _mean(name, old, new, options)
    n, m, free = sum(expected), sum(observed), len(expected) - 1
    if not n or not m:
        return _incomparable(name, old, new, "no numbers on one side")
    value = _psi(expected, observed)
    noise = 1 / n + 1 / m
    unbiased = value - free * noise
    p = float(chi2.sf(value / noise, free))
    column = DriftColumn(name, "psi", max(unbiased, 0.0), options.psi, False, round(old.n), round(new.n), f"p {p:.2g}")
    return _Test(column, p, unbiased > options.psi)


def _psi(expected: Sequence[float], observed: Sequence[float]) -> float:
    """Σ (q - p) ln(q / p), half a count added to every bin, so that an empty one stays finite (Jeffreys' prior)."""
    n, m = sum(expected) + len(expected) / 2, sum(observed) + len(observed) / 2
    shares = [((e + 0.5) / n, (o + 0.5) / m) for e, o in zip(expected, observed, strict=True)]
    return sum((q - p) * math.log(q / p) for p, q in shares)


def _cuts(bins: Mapping[str, float], wanted: int) -> list[int]:
    """Last fixed bin of every merged bin but the top one, about as much of the reference in each."""
    numbers = sorted((int(name), count) for name, count in bins.items() if not name.startswith("="))
    total, held, level, cuts = sum(count for _, count in numbers), 0.0, 0, list[int]()
    for index, count in numbers[:-1]:
        held += count
        if int(held * wanted / total + 1e-9) > level:  # one more quantile is passed (or several, by a full bin)
            level = int(held * wanted / total + 1e-9)
            cuts.append(index)
    return cuts


def _binned(bins: Mapping[str, float], cuts: Sequence[int]) -> list[float]:
    counts = [0.0] * (len(cuts) + 1)
    for name, count in bins.items():
        if not name.startswith("="):
            counts[bisect_left(cuts, int(name))] += count
    return counts


def _mean(name: str, old: ColumnSketch, new: ColumnSketch, options: Options) -> _Test:
    """For a reference that mostly lies in one bin: the mean's shift against the standard error of both (Welch 1947)."""
    if not old.n or not new.n:
        return _incomparable(name, old, new, "no numbers on one side")
    means = old.sum / old.n, new.sum / new.n
    variances = [max(c.squares / c.n - (c.sum / c.n) ** 2, 0.0) for c in (old, new)]
    error = math.sqrt(variances[0] / old.n + variances[1] / new.n)
    shift = 0.0 if math.isclose(*means, rel_tol=1e-9) else abs(means[1] - means[0])  # weighted sums are rounded
    # A constant has no deviation to count in: its own size stands in (a hundredth of it is one).
    unit = math.sqrt(max(variances)) or abs(means[0]) / 100 or 1.0
    p = float(2 * norm.sf(shift / error)) if error else float(shift == 0)
    column = DriftColumn(
        name, "mean_shift", shift / unit, options.mean, False, round(old.n), round(new.n), f"p {p:.2g}"
    )
    return _Test(column, p, shift / unit > options.mean)


def _category(name: str, old: ColumnSketch, new: ColumnSketch, options: Options) -> _Test:
    """Pearson's χ² on the two rows of counts, rare categories taken together (Cochran 1954: at least 5 expected)."""
    n, m = old.n, new.n
    if not n or not m:
        return _incomparable(name, old, new, "no values on one side")
    table: list[tuple[float, float]] = []
    rare = [0.0, 0.0]
    for category in sorted({*old.bins, *new.bins}):
        pair = (old.bins.get(category, 0), new.bins.get(category, 0))
        if sum(pair) * min(n, m) / (n + m) >= 5 and category != OTHER:
            table.append(pair)
        else:
            rare = [rare[0] + pair[0], rare[1] + pair[1]]
    if sum(rare):
        table.append((rare[0], rare[1]))
    if len(table) < 2:
        column = DriftColumn(
            name, "chi2_p", 1.0, options.error_rate, False, round(n), round(m), "one category on both sides"
        )
        return _Test(column, 1.0, False)
    test = chi2_contingency([[a for a, _ in table], [b for _, b in table]], correction=False)
    # Cramér's V as if both windows were of one size, so that it doesn't shrink with the smaller one. The χ² of no
    # difference is (categories - 1) in the mean: taken off, as PSI's bias is (Bergsma 2013, J. Korean Stat. Soc. 42).
    effect = math.sqrt(max(test.statistic - test.dof, 0.0) * (1 / n + 1 / m)) / 2
    changed = max(table, key=lambda pair: abs(pair[1] / m - pair[0] / n))
    note = (
        f"V {effect:.2f} (limit {options.association:g}); {changed[0] / n:.0%} before, {changed[1] / m:.0%} now at most"
    )
    column = DriftColumn(name, "chi2_p", float(test.pvalue), options.error_rate, False, round(n), round(m), note)
    return _Test(column, float(test.pvalue), effect > options.association)


def _rating(name: str, old: ColumnSketch, new: ColumnSketch, options: Options) -> _Test:
    """Loss of the rate of good ratings, with the interval of Newcombe 1998 (Statistics in Medicine 17:873, method 10)."""
    n, m = old.good + old.bad, new.good + new.bad
    if not n or not m:
        return _incomparable(name, replace(old, n=n), replace(new, n=m), "no ratings on one side")
    before, now = old.good / n, new.good / m
    limits = wilson(old.good, n, options.error_rate), wilson(new.good, m, options.error_rate)
    low = now - before - math.hypot(now - limits[1][0], limits[0][1] - before)
    high = now - before + math.hypot(limits[1][1] - now, before - limits[0][0])
    pooled = (old.good + new.good) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    p = float(2 * norm.sf(abs(now - before) / error)) if error and high < 0 else 1.0
    note = f"{before:.0%} good before, {now:.0%} now; difference [{low:+.1%}, {high:+.1%}]"
    column = DriftColumn(name, "rate_difference", now - before, -options.rating, False, round(n), round(m), note)
    return _Test(column, p, now - before < -options.rating)


def _incomparable(name: str, old: ColumnSketch, new: ColumnSketch, why: str) -> _Test:
    column = DriftColumn(name, "none", 0.0, 0.0, False, round(old.n), round(new.n), f"not judged: {why}")
    return _Test(column, 1.0, False, judged=False)


def _reason(reference: Window, current: Window, drifted: Sequence[DriftColumn], judged: bool, options: Options) -> str:
    if not judged:
        return f"too few {current.kind} to compare: {reference.n} before, {current.n} now, {options.minimum} are needed"
    if not drifted:
        return f"{current.kind} as before: {current.n} rows against {reference.n}"
    told = [f"{c.column} ({c.statistic} {c.value:.3g}, limit {c.threshold:g})" for c in drifted[:3]]
    more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
    return f"{current.kind} drifted in {', '.join(told)}{more}, {current.n} rows against {reference.n}"
