"""Arithmetic of sketches: adding them up, and a reference as it would look on the weekdays of another window.

Owns: sums over blocks and weekdays, and the standardisation by weekday. Refuses to know rows and tables. Called by
`feedback.windows` and the detectors in `feedback.drift`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedback import sketch

Flat = Mapping[str, Any]
Days = Mapping[str, Flat]

CATEGORIES = 1000


@dataclass(frozen=True, slots=True)
class ColumnSketch:
    """One column of a window: `n` values, `bins` as `feedback.sketch` names them, sums for numbers, ratings by sign.

    The counts are whole, or weighted by weekday.
    """

    n: float
    bins: Mapping[str, float]
    sum: float = 0.0
    squares: float = 0.0
    good: float = 0
    neutral: float = 0
    bad: float = 0

    @property
    def numeric(self) -> bool:
        """Whether most values are numbers (a sender may change its mind about a feature's type)."""
        return 2 * sum(count for name, count in self.bins.items() if not name.startswith("=")) > self.n


def column(counts: Flat) -> ColumnSketch:
    """The sketch of one column from its flat counts."""
    return ColumnSketch(
        n=counts.get("n", 0),
        bins=sketch.bins(counts),
        sum=float(counts.get("sum", 0.0)),
        squares=float(counts.get("squares", 0.0)),
        good=counts.get("good", 0),
        neutral=counts.get("neutral", 0),
        bad=counts.get("bad", 0),
    )


def add(total: dict[str, dict[str, Any]], part: Days) -> None:
    """Add one block's counts to `total` in place, weekday by weekday."""
    for day, counts in part.items():
        held = total.setdefault(day, {})
        for name, value in counts.items():
            if name in held:  # twice as fast as get: a wide window is half a million counts
                held[name] += value
            else:
                held[name] = value


def summed(parts: Iterable[Flat]) -> dict[str, Any]:
    """Flat counts added up."""
    total: dict[str, dict[str, Any]] = {}
    for part in parts:
        add(total, {"": part})
    return total.get("", {})


def judged(counts: Flat) -> float:
    """How many values say something: ratings that aren't neutral, or all values."""
    rated = "good" in counts or "bad" in counts or "neutral" in counts
    return float(counts.get("good", 0) + counts.get("bad", 0) if rated else counts.get("n", 0))


def like(reference: Days, current: Days, minimum: int) -> ColumnSketch:
    """The reference's column as it would look on the weekdays of `current`, at the size that it is then worth.

    Direct standardisation: each weekday of the reference weighs what it weighs in `current`, so that a window of a
    weekend isn't compared with workdays. Weighting costs size: what is left is Kish's effective one, 1 / Σ w² / n (Kish
    1965, "Survey Sampling"), and the counts are scaled to it, so that a test of them errs no more often than it says. A
    weekday of which the reference has fewer than `minimum` values is compared with the whole reference.
    """
    whole, held = summed(reference.values()), sum(judged(counts) for counts in current.values())
    if not held or not judged(whole):
        return column(whole)
    weights: dict[str, float] = {}
    for day, counts in current.items():
        known = day if judged(reference.get(day, {})) >= minimum else ""
        weights[known] = weights.get(known, 0.0) + judged(counts) / held
    strata = {day: reference[day] if day else whole for day in weights}
    size = 1 / sum(weight**2 / judged(strata[day]) for day, weight in weights.items())
    total: dict[str, dict[str, Any]] = {}
    for day, weight in weights.items():
        factor = size * weight / judged(strata[day])
        add(total, {"": {name: value * factor for name, value in strata[day].items()}})
    return column(total[""])


def capped(days: Days) -> dict[str, dict[str, Any]]:
    """The same with the rarest categories of a word taken together, so that a frozen window stays small."""
    whole = summed(days.values())
    categories: Sequence[str] = sorted(
        (name for name in whole if name[0] == "="), key=lambda name: (-whole[name], name)
    )
    rare = set(categories[CATEGORIES:])
    kept: dict[str, dict[str, Any]] = {}
    for day, counts in days.items():
        kept[day] = {name: value for name, value in counts.items() if name not in rare}
        lost = sum(value for name, value in counts.items() if name in rare)
        if lost:
            kept[day][sketch.OTHER] = kept[day].get(sketch.OTHER, 0) + lost
    return kept
