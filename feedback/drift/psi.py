"""Cheap drift, always on: PSI of numbers and χ² of categories on frozen bins, and the rate of good ratings.

Owns: the statistics and when a column has drifted. Refuses to read rows: windows' sketches are enough. Called by
`daemon.looking` on every look.

A column has drifted when the difference is proven, large and lasting. Proven: the p-value of the whole window holds after
Holm's correction over all columns of the report, so that many columns don't alarm by chance. Large and lasting: in enough
of the window's blocks the effect is above a threshold, so that neither a million rows alarm over nothing nor one odd hour
over everything. The proof alone holds the error rate; the blocks can only lower it.

A slice of the records (a tenant, a language) is a window of its own, in blocks of its own; all columns of all slices are
in the same correction, so that many slices don't alarm by chance either, whatever they have in common. At a slice's few
values the statistics' own distributions are too far off for the small levels that this leaves, so that what they say is
proven counts there only with the p-value of an exact test (`feedback.exact`); ratings have it everywhere, a shift of the
mean nowhere.

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

from feedback import exact
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
    """One column's comparison before the correction: `large` says that the effect is above its threshold.

    `name` is the column's own, without its slice.
    """

    column: DriftColumn
    p: float
    large: bool
    judged: bool = True
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Part:
    """All records, or a slice of them, on both sides; the blocks that it is judged by, `need` of them."""

    reference: Window
    current: Window
    blocks: Sequence[Window]
    need: int


def measure(reference: Window, current: Window, options: Options) -> DriftReport:
    """Compare two windows of one kind, column by column, and each slice of both; nothing below `options.minimum` values.

    A window without blocks is its own only one. `value` of a column: PSI without its bias (psi), the p-value (chi2_p),
    standard deviations (mean_shift), or points of 1 (rate_difference). Of a slice only what drifted is a column.
    """
    parts = _parts(reference, current, options)
    tests = [(part, test) for part in parts for test in _tests(part, options)]
    judged = [(part, test) for part, test in tests if test.judged]
    proven = holm([test.p for _, test in judged], options.error_rate)
    alarms = {}
    for (part, test), is_proven in zip(judged, proven, strict=True):
        lasting = _lasting(test, part, options) if is_proven else None
        if lasting is not None:
            alarms[test.column.column] = lasting
    columns = tuple(alarms.get(test.column.column, test.column) for _, test in tests)
    columns = tuple(column for column in columns if column.drifted or not column.slice)
    drifted = [column for column in columns if column.drifted]
    return DriftReport(
        detector=NAME,
        judged=bool(judged),
        drifted=bool(drifted),
        kind=current.kind if drifted else "",
        reason=_reason(parts[0], drifted, bool(judged), options),
        columns=columns,
        reference=(reference.first, reference.last),
        current=(current.first, current.last),
        slices=tuple(sorted({part.current.slice for part, _ in judged} - {""})),
    )


def _parts(reference: Window, current: Window, options: Options) -> list[_Part]:
    """All records, then each slice that both sides know; one without enough blocks isn't judged."""
    known = [(reference.slices[name], one) for name, one in sorted(current.slices.items()) if name in reference.slices]
    return [
        _Part(old, new, new.blocks or (new,), options.agree if current.blocks else 1)
        for old, new in [(reference, current), *known]
    ]


def _lasting(test: _Test, part: _Part, options: Options) -> DriftColumn | None:
    """The column of a proven difference where its effect is large in enough blocks, since the first of these."""
    large = [block for block in part.blocks if _test(test.name, part.reference, block, options).large]
    if len(large) < part.need:
        return None
    lasting = f"; large in {len(large)} of {len(part.blocks)} blocks" if len(part.blocks) > 1 else ""
    return replace(test.column, drifted=True, note=test.column.note + lasting, since=large[0].first + 1)


def _tests(part: _Part, options: Options) -> list[_Test]:
    if len(part.blocks) < part.need:
        return []
    names = sorted({*part.reference.columns, *part.current.columns})
    return [_judged(_test(name, part.reference, part.current, options), name, part, options) for name in names]


def _test(name: str, reference: Window, current: Window, options: Options) -> _Test:
    old, new = reference.columns.get(name, NOTHING), current.columns.get(name, NOTHING)
    if old.n and new.n:
        old = like(reference.days(name), current.days(name), options.minimum)
    if current.kind == "outcomes":
        return _rating(name, old, new, options)
    if old.n and new.n and old.numeric != new.numeric:
        return _incomparable(name, old, new, "numbers on one side, words on the other")
    return (_number if old.numeric else _category)(name, old, new, options, sliced=bool(current.slice))


def _judged(test: _Test, name: str, part: _Part, options: Options) -> _Test:
    """The test with what speaks against judging it, and named by its slice."""
    column, note, slice = test.column, test.column.note, part.current.slice
    fewest, judged = min(column.reference_n, column.current_n), False
    records = part.reference.records, part.current.records
    if records[0] != records[1]:
        note = f"not judged: the reference is made of {records[0]} records, this window of {records[1]}"
    elif name in options.ignore:
        note = "not judged: ignored by the policy"
    elif fewest < options.minimum:
        note = f"not judged: {fewest} values on one side, {options.minimum} are needed"
    else:
        judged = test.judged
    shown = f"{name}[{slice}]" if slice else name
    return replace(test, judged=judged, name=name, column=replace(column, column=shown, note=note, slice=slice))


def _number(name: str, old: ColumnSketch, new: ColumnSketch, options: Options, *, sliced: bool) -> _Test:
    cuts = _cuts(old.bins, options.bins)
    expected, observed = _binned(old.bins, cuts), _binned(new.bins, cuts)
    if 2 * max(expected) > sum(expected):
        return _mean(name, old, new, options, sliced=sliced)
    n, m, free = sum(expected), sum(observed), len(expected) - 1
    if not n or not m:
        return _incomparable(name, old, new, "no numbers on one side")
    value = _psi(expected, observed)
    noise = 1 / n + 1 / m
    unbiased = value - free * noise
    p = float(chi2.sf(value / noise, free))
    if sliced and p <= options.error_rate:
        p = exact.ordered(expected, observed)
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


def _mean(name: str, old: ColumnSketch, new: ColumnSketch, options: Options, *, sliced: bool) -> _Test:
    """For a reference that mostly lies in one bin: the mean's shift against the standard error of both (Welch 1947).

    In a slice both sides have the larger variance: a few hundred values that lack the rare large ones look too sure.
    """
    if not old.n or not new.n:
        return _incomparable(name, old, new, "no numbers on one side")
    means = old.sum / old.n, new.sum / new.n
    variances = [max(c.squares / c.n - (c.sum / c.n) ** 2, 0.0) for c in (old, new)]
    counted = (max(variances), max(variances)) if sliced else variances
    error = math.sqrt(counted[0] / old.n + counted[1] / new.n)
    shift = 0.0 if math.isclose(*means, rel_tol=1e-9) else abs(means[1] - means[0])  # weighted sums are rounded
    # A constant has no deviation to count in: its own size stands in (a hundredth of it is one).
    unit = math.sqrt(max(variances)) or abs(means[0]) / 100 or 1.0
    p = float(2 * norm.sf(shift / error)) if error else float(shift == 0)
    column = DriftColumn(
        name, "mean_shift", shift / unit, options.mean, False, round(old.n), round(new.n), f"p {p:.2g}"
    )
    return _Test(column, p, shift / unit > options.mean)


def _category(name: str, old: ColumnSketch, new: ColumnSketch, options: Options, *, sliced: bool) -> _Test:
    """Pearson's χ² on the two rows of counts, rare categories taken together (Cochran 1954: at least 5 expected).

    In a slice, whose p-value is exact, 1 is enough, and rare ones that are new are apart from those that were there.
    """
    n, m = old.n, new.n
    if not n or not m:
        return _incomparable(name, old, new, "no values on one side")
    pairs = {key: (old.bins.get(key, 0), new.bins.get(key, 0)) for key in sorted({*old.bins, *new.bins})}
    table: list[tuple[float, float]] = []
    rare = {False: [0.0, 0.0], True: [0.0, 0.0]}
    for category, pair in pairs.items():
        if sum(pair) * min(n, m) / (n + m) >= (1 if sliced else 5) and category != OTHER:
            table.append(pair)
        else:
            held = rare[sliced and not pair[0]]
            held[0], held[1] = held[0] + pair[0], held[1] + pair[1]
    table += [(before, now) for before, now in rare.values() if before + now]
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
    p = float(test.pvalue)
    if sliced and p <= options.error_rate:
        p = exact.categories([a for a, _ in pairs.values()], [b for _, b in pairs.values()])
    column = DriftColumn(name, "chi2_p", p, options.error_rate, False, round(n), round(m), note)
    return _Test(column, p, effect > options.association)


def _rating(name: str, old: ColumnSketch, new: ColumnSketch, options: Options) -> _Test:
    """Loss of the rate of good ratings, with the interval of Newcombe 1998 (Statistics in Medicine 17:873, method 10)."""
    n, m = old.good + old.bad, new.good + new.bad
    if not n or not m:
        return _incomparable(name, replace(old, n=n), replace(new, n=m), "no ratings on one side")
    before, now = old.good / n, new.good / m
    limits = wilson(old.good, n, options.error_rate), wilson(new.good, m, options.error_rate)
    low = now - before - math.hypot(now - limits[1][0], limits[0][1] - before)
    high = now - before + math.hypot(limits[1][1] - now, before - limits[0][0])
    p = exact.fewer((old.good, old.bad), (new.good, new.bad)) if now < before else 1.0
    note = f"{before:.0%} good before, {now:.0%} now; difference [{low:+.1%}, {high:+.1%}]"
    column = DriftColumn(name, "rate_difference", now - before, -options.rating, False, round(n), round(m), note)
    return _Test(column, p, now - before < -options.rating)


def _incomparable(name: str, old: ColumnSketch, new: ColumnSketch, why: str) -> _Test:
    column = DriftColumn(name, "none", 0.0, 0.0, False, round(old.n), round(new.n), f"not judged: {why}")
    return _Test(column, 1.0, False, judged=False)


def _reason(whole: _Part, drifted: Sequence[DriftColumn], judged: bool, options: Options) -> str:
    """What drifted in all records; where that is nothing, what in which slices."""
    reference, current = whole.reference, whole.current
    if not judged and len(whole.blocks) < whole.need:
        return f"too few {current.kind} to compare: {len(current.blocks)} of {whole.need} blocks are there"
    if not judged:
        return f"too few {current.kind} to compare: {reference.n} before, {current.n} now, {options.minimum} are needed"
    if not drifted:
        return f"{current.kind} as before: {current.n} rows against {reference.n}"
    everywhere = [column for column in drifted if not column.slice]
    if everywhere:
        return f"{current.kind} drifted in {_told(everywhere)}, {current.n} rows against {reference.n}"
    names = sorted({column.slice for column in drifted})
    told = [f"{current.kind} of {name} drifted in {_told([c for c in drifted if c.slice == name])}" for name in names]
    more = f"; {len(names) - 3} more slices" if len(names) > 3 else ""
    return f"{'; '.join(told[:3])}{more}; all of them together as before"


def _told(drifted: Sequence[DriftColumn]) -> str:
    """The first three columns in words; those of a slice with its rows."""
    told = []
    for column in drifted[:3]:
        rows = f"; {column.current_n} rows against {column.reference_n}" if column.slice else ""
        name = column.column.removesuffix(f"[{column.slice}]")
        told.append(f"{name} ({column.statistic} {column.value:.3g}, limit {column.threshold:g}{rows})")
    return ", ".join(told) + (f" and {len(drifted) - 3} more" if len(drifted) > 3 else "")
