"""Drift of what questions mean: an encoder's vectors, compared along the one direction that tells new from old best.

Owns: the witness and its test. Refuses to know encoders (`daemon.encoding` makes the vectors) and to keep vectors.
Called by `daemon.drifting` in a child process, and by `feedback.drift.columns`, which shows the same direction.

The test is the witness two-sample test (Kübler, Jitkrittum, Schölkopf & Muandet 2022, "A witness two-sample test",
AISTATS): one half of both samples learns the direction w = (Σ + λ)⁻¹ (mean now - mean before), Fisher's discriminant;
the other half's values along w are one column, whose mean has moved or not. Since w doesn't know these rows, they can be
exchanged where nothing changed, so that the p-value by permutation, (1 + as large) / (1 + permutations), errs no more
often than it says at any sample size (Phipson & Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9). Rows are compared and
permuted within their weekday, so that a weekend is no drift. As in `feedback.drift.psi`, an alarm must be proven, and
large in enough blocks. What moves no mean, as a wider spread around the same middle, isn't seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from feedback.counts import ColumnSketch
from feedback.samples import Vector
from feedback.windows import Window
from policies.model import DriftColumn, DriftReport

NAME = COLUMN = "meaning"
MOST = 100_000  # permutations
FEW = 5  # rows of a weekday on each side, below which it isn't kept apart
TELLING = 30  # records that are named as typical of what is new

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Options:
    """`shift`: of the mean along the direction, in standard deviations, above which it counts.

    `error_rate`: chance of an alarm while nothing changed; a look gets it from the policy's `false_alarms`, and a smaller
    one takes more permutations. `agree`: blocks of the window that must show the shift. `minimum`: questions on each side
    below which nothing is judged.
    """

    shift: float = 0.5
    error_rate: float = 0.01
    agree: int = 3
    minimum: int = 100


@dataclass(frozen=True, slots=True)
class _Side:
    """The rows of one side that the direction doesn't know: values along it, weekdays, sequence numbers."""

    values: Numbers
    days: NDArray[np.str_]
    seqs: NDArray[np.int64]


def measure(reference: Window, current: Window, options: Options) -> DriftReport:
    """Compare the vectors of two windows of inputs; `value` is the shift along the direction in standard deviations."""
    n, m = len(reference.vectors), len(current.vectors)
    spans = (reference.first, reference.last), (current.first, current.last)
    if min(n, m) < options.minimum:
        reason = f"too few questions to compare: {n} before, {m} now, {options.minimum} are needed"
        return DriftReport(NAME, False, False, "", reason, (), *spans)
    before, now = _along(reference.vectors, current.vectors)
    strata = _strata(before.days, now.days)
    spread = _spread(before, strata[0])
    shift = float(_difference(before.values, now.values, *strata)) / spread
    p = _chance(before.values, now.values, *strata, options.error_rate)
    blocks = current.blocks or (current,)
    need = options.agree if current.blocks else 1
    large = [block for block in blocks if _of_block(block, before, now, strata) / spread > options.shift]
    drifted = p <= options.error_rate and len(large) >= need
    note = f"p {p:.2g}" + (f"; large in {len(large)} of {len(blocks)} blocks" if len(blocks) > 1 else "")
    column = DriftColumn(COLUMN, "witness", shift, options.shift, drifted, n, m, note)
    if drifted:
        column = replace(column, since=large[0].first + 1, typical=_telling(before, now))
    told = f"{COLUMN} (witness {shift:.2f}, limit {options.shift:g}), {m} questions against {n}"
    reason = f"inputs drifted in {told}" if drifted else f"questions mean what they did: {m} against {n}"
    return DriftReport(NAME, True, drifted, current.kind if drifted else "", reason, (column,), *spans)


def shown(reference: Window, current: Window) -> tuple[Window, Window]:
    """Both windows with a column `meaning` in their samples, of the rows that its direction doesn't know.

    Without vectors they are what they were.
    """
    if not reference.vectors or not current.vectors:
        return reference, current
    sides = _along(reference.vectors, current.vectors)
    return tuple(  # type: ignore[return-value]
        replace(
            window,
            columns={**window.columns, COLUMN: ColumnSketch(len(side.values), {"0": float(len(side.values))})},
            sample=[*window.sample, *({COLUMN: float(value)} for value in side.values)],
        )
        for window, side in zip((reference, current), sides, strict=True)
    )


def _along(before: Sequence[Vector], now: Sequence[Vector]) -> tuple[_Side, _Side]:
    """Every other row of both sides gives the direction, the others their values along it."""
    sides = [sorted(side, key=lambda one: one.seq) for side in (before, now)]
    taught = [side[::2] for side in sides]
    old, new = (np.array([one.values for one in side]) for side in taught)
    days = [np.array([one.day for one in side]) for side in taught]
    strata = _strata(*days)
    gap = _difference(old, new, *strata)
    within = np.concatenate([_centred(old, strata[0]), _centred(new, strata[1])])
    covariance = within.T @ within / max(len(within) - 1, 1)
    ridge = np.trace(covariance) / len(covariance) or 1.0
    direction = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), gap)
    return tuple(  # type: ignore[return-value]
        _Side(
            np.array([one.values for one in side[1::2]]) @ direction,
            np.array([one.day for one in side[1::2]]),
            np.array([one.seq for one in side[1::2]]),
        )
        for side in sides
    )


def _strata(before: NDArray[np.str_], now: NDArray[np.str_]) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """The weekdays that both sides have rows of; the rest is one stratum, or all are where it has too few on a side."""
    known = [day for day in np.unique(now) if min((now == day).sum(), (before == day).sum()) >= FEW]
    sides = np.where(np.isin(before, known), before, ""), np.where(np.isin(now, known), now, "")
    rest = [(side == "").sum() for side in sides]
    if rest[1] and rest[0] < FEW:
        return np.full(len(before), ""), np.full(len(now), "")
    return sides


def _difference(before: Numbers, now: Numbers, old: NDArray[np.str_], new: NDArray[np.str_]) -> Numbers:
    """Now's mean less before's as it would be on now's weekdays; of rows, or of each of several columns of values."""
    total = np.zeros(now.shape[1:])
    for day in np.unique(new):
        mine = new == day
        total = total + (now[mine].mean(axis=0) - before[old == day].mean(axis=0)) * (mine.sum() / len(new))
    return np.asarray(total)


def _centred(values: Numbers, days: NDArray[np.str_]) -> Numbers:
    centred = values.astype(np.float64)
    for day in np.unique(days):
        centred[days == day] -= values[days == day].mean(axis=0)
    return centred


def _spread(side: _Side, days: NDArray[np.str_]) -> float:
    return float(_centred(side.values, days).std()) or 1.0


def _of_block(block: Window, before: _Side, now: _Side, strata: tuple[NDArray[np.str_], NDArray[np.str_]]) -> float:
    mine = (now.seqs > block.first) & (now.seqs <= block.last)
    return float(_difference(before.values, now.values[mine], strata[0], strata[1][mine])) if mine.any() else -math.inf


def _chance(before: Numbers, now: Numbers, old: NDArray[np.str_], new: NDArray[np.str_], error_rate: float) -> float:
    """The p-value by permuting both sides' rows within their weekdays; one-sided, since the direction has a sign."""
    draw, wanted = np.random.default_rng(0), min(MOST, math.ceil(20 / max(error_rate, 20 / MOST)))
    seen, large, at_once = float(_difference(before, now, old, new)), 0, 1000
    for start in range(0, wanted, at_once):
        times = min(at_once, wanted - start)
        total = np.zeros(times)
        for day in np.unique(new):
            mine, theirs = now[new == day], before[old == day]
            pooled = draw.permuted(np.tile(np.concatenate([mine, theirs]), (times, 1)), axis=1)
            total += (pooled[:, : len(mine)].mean(1) - pooled[:, len(mine) :].mean(1)) * (len(mine) / len(now))
        large += int((total >= seen - 1e-12).sum())
    return (1 + large) / (1 + wanted)


def _telling(before: _Side, now: _Side) -> tuple[int, ...]:
    """Records that lie furthest along the direction, beyond nearly all of before; of equal ones the first."""
    beyond, found = float(np.quantile(before.values, 0.95)), dict[float, int]()
    for place in np.argsort(-now.values, kind="stable"):
        if now.values[place] > beyond:
            found.setdefault(round(float(now.values[place]), 9), int(now.seqs[place]))
    return tuple(found.values())[:TELLING]
