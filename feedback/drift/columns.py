"""Evidently's report on two sampled windows: the evidence that a person reads, and a second opinion on the cheap look.

Owns: which of Evidently's distances judges a column, and the files it leaves. Refuses to draw the samples. Called by
`daemon.drifting` in a child process only: importing Evidently takes seconds and hundreds of megabytes.

Numbers are compared by Wasserstein's distance in standard deviations of the reference, words (and ratings) by Jensen and
Shannon's. A distance between two samples of one distribution isn't 0, so a column's limit is never below what chance
makes of its own rows: the mean and three deviations over random splits of both windows together (a permutation test,
Good 2005). That isn't corrected for the number of columns: with three of them, unchanged samples of 60, 200 and 600 rows
alarmed in 7, 4 and 2 of 200 reports, and more columns alarm more often (`feedback.drift.psi` does correct, and asks for
the report). Where an encoder was asked, `meaning` is a number too: the rows' place along the direction that tells new
from old, learned on other rows (`feedback.drift.meaning`). No text is a column (`feedback.sketch` makes numbers and words
of texts), so nothing is downloaded, and DO_NOT_TRACK is set before the import, since Evidently would send telemetry and
feedback is private.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from feedback.drift import meaning
from feedback.sketch import NEUTRAL
from feedback.windows import Window
from policies.model import DriftColumn, DriftReport

NAME = "columns"

Rows = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Options:
    """`number`: Wasserstein distance above which a number has drifted, in standard deviations of the reference.

    `word`: Jensen-Shannon distance above which a word has drifted, in [0, 0.83]. `rating`: the same for ratings, where
    only a loss counts. `splits`: random splits that say what chance makes. `minimum`: values on each side below which a
    column isn't judged; a policy's own minimum comes on top. `ignore`: columns that aren't judged: the length of answers
    follows the version that answers, so a promotion alone would move it.
    """

    number: float = 0.2
    word: float = 0.15
    rating: float = 0.08
    splits: int = 50
    minimum: int = 50
    ignore: tuple[str, ...] = ("response_length",)


@dataclass(frozen=True, slots=True)
class _Column:
    """One column's values on both sides, as Evidently gets them, and the limit it is held to."""

    name: str
    method: str
    before: Rows
    now: Rows
    limit: float


def measure(reference: Window, current: Window, options: Options) -> DriftReport:
    """Compare the samples of two windows of one kind, column by column, by Evidently's distances."""
    return _judge(reference, current, options, None)


def report(reference: Window, current: Window, options: Options, folder: Path) -> DriftReport:
    """`measure`, and leave Evidently's report as `<kind>.html` and `<kind>.json` in `folder`, named in `files`."""
    return _judge(reference, current, options, folder)


def _judge(reference: Window, current: Window, options: Options, folder: Path | None) -> DriftReport:
    reference, current = meaning.shown(reference, current)
    columns = [] if reference.records != current.records else _columns(reference, current, options)
    values: dict[str, float] = {}
    files: tuple[str, ...] = ()
    if columns:
        made = _evidently(columns)
        values = {metric["config"]["column"]: float(metric["value"]) for metric in made.dict()["metrics"]}
        files = _save(made, folder, current.kind) if folder else ()
    judged = tuple(_judged(column, values[column.name]) for column in columns)
    drifted = [column for column in judged if column.drifted]
    told = ", ".join(f"{c.column} ({c.statistic} {c.value:.2f}, limit {c.threshold:.2f})" for c in drifted[:3])
    sizes = f"{len(current.sample)} sampled rows against {len(reference.sample)}"
    same = f"{current.kind} as before: {sizes}" if judged else f"too few {current.kind} to compare: {sizes}"
    return DriftReport(
        detector=NAME,
        judged=bool(judged),
        drifted=bool(drifted),
        kind=current.kind if drifted else "",
        reason=f"{current.kind} drifted in {told}, {sizes}" if drifted else same,
        columns=judged,
        reference=(reference.first, reference.last),
        current=(current.first, current.last),
        files=files,
    )


def _judged(column: _Column, value: float) -> DriftColumn:
    statistic = "jensen_shannon" if column.method == "jensenshannon" else column.method
    drifted, note = value > column.limit, ""
    if column.name == "rating":
        before, now = (sum(word == "good" for word in rows) / len(rows) for rows in (column.before, column.now))
        drifted, note = drifted and now < before, f"{before:.0%} good before, {now:.0%} now"
    sizes = len(column.before), len(column.now)
    return DriftColumn(column.name, statistic, value, column.limit, drifted, *sizes, note)


def _columns(reference: Window, current: Window, options: Options) -> list[_Column]:
    found = []
    for name in sorted(set(reference.columns) & set(current.columns) - set(options.ignore)):
        numeric = reference.columns[name].numeric and name != "rating"
        before, now = (_values(window, name, numeric) for window in (reference, current))
        if min(len(before), len(now)) < options.minimum:
            continue
        limit = options.rating if name == "rating" else options.number if numeric else options.word
        column = _Column(name, "wasserstein" if numeric else "jensenshannon", before, now, limit)
        found.append(replace(column, limit=max(limit, _chance(column, options.splits))))
    return found


def _values(window: Window, name: str, numeric: bool) -> Rows:
    values = [row[name] for row in window.sample if name in row]
    if name == "rating":
        numbers = [float(value) for value in values if not isinstance(value, str)]
        return ["good" if value > 0 else "bad" for value in numbers if abs(value) > NEUTRAL]
    return [value for value in values if isinstance(value, str) is not numeric]


def _chance(column: _Column, splits: int) -> float:
    """What the distance reaches by chance: mean and three deviations over random splits of both windows together."""
    everything = np.array([*column.before, *column.now])
    numeric = column.method == "wasserstein"
    pooled: NDArray[Any] = everything.astype(np.float64) if numeric else np.unique(everything, return_inverse=True)[1]
    kinds = 0 if numeric else int(pooled.max()) + 1
    draw, cut, seen = np.random.default_rng(0), len(column.before), []
    for _ in range(splits):
        mixed = draw.permutation(pooled)
        one, other = mixed[:cut], mixed[cut:]
        if numeric:
            # In deviations of the first side alone, as Evidently has it: under a heavy tail those vary by themselves.
            seen.append(float(wasserstein_distance(one, other)) / max(float(np.std(one)), 0.001))
        else:
            counts = (np.bincount(side, minlength=kinds) for side in (one, other))
            seen.append(float(jensenshannon(*counts)))
    known = np.nan_to_num(seen)  # rounding can put a divergence of 0 below 0, and its root is then no number
    return float(np.mean(known) + 3 * np.std(known))


def _evidently(columns: Sequence[_Column]) -> Any:
    os.environ["DO_NOT_TRACK"] = "1"
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.tests import lt

    definition = DataDefinition(
        numerical_columns=[column.name for column in columns if column.method == "wasserstein"],
        categorical_columns=[column.name for column in columns if column.method == "jensenshannon"],
    )
    before = pd.DataFrame({column.name: pd.Series(column.before) for column in columns})
    now = pd.DataFrame({column.name: pd.Series(column.now) for column in columns})
    judges = [ValueDrift(column=c.name, method=c.method, threshold=c.limit, tests=[lt(c.limit)]) for c in columns]
    return Report(judges).run(Dataset.from_pandas(now, definition), Dataset.from_pandas(before, definition))


def _save(made: Any, folder: Path, kind: str) -> tuple[str, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / f"{kind}.html", folder / f"{kind}.json"
    made.save_html(str(page))
    data.write_text(made.json(), encoding="utf-8")
    return str(page), str(data)
