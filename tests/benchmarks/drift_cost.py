"""What a look at drift costs: the sketches' check against Evidently's DataDriftPreset, and whether both say the same.

Cost: a current window of 100,000 records with 20 columns against a reference as large, in one process on one machine. The
check reads the sketches that ingest has left in a database, thaws the frozen reference and judges every column and block;
Evidently gets both data frames ready in memory, so that reading rows isn't even counted. What ingest pays for the sketches
is told beside it, by record.

Verdicts: 200 windows of 2,000 records with 6 columns, half of them unchanged, in the other half one column moves by a
drawn size, small ones too. Evidently is asked by the same preset with its own settings (Wasserstein's distance and Jensen
and Shannon's, 0.1 each), and, for comparison only, with PSI above 0.2 as its method. A window has drifted where any column
has. Where two differ, `differ` in the raw figures has the column and the size of its move.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert
from sqlalchemy.orm import Session

from daemon import schema
from feedback import db, sketch, windows
from feedback.drift import psi
from feedback.tables import Record
from policies.policy import Drift
from tests.benchmarks import common
from tests.benchmarks._weeks import record

SEED = 11
SIZES = {"full": (100_000, 200), "quick": (10_000, 10)}  # records of the cost, windows of the verdicts
SMALL = 2000
BLOCKS = Drift().blocks
SPEEDUP, SAME = 20.0, 0.95

Values = NDArray[Any]
Frame = dict[str, Values]


@dataclass(frozen=True)
class Verdict:
    """One window: what moved and by how much (0: nothing did), and whether each of the two said drift."""

    column: str
    size: float
    ours: bool
    evidently: bool
    evidently_psi: bool


def frame(draw: np.random.Generator, rows: int, numbers: int, words: int) -> Frame:
    """Columns `number0`… (lognormal, normal, exponential in turn) and `word0`… (eight words of falling shares)."""
    laws = (lambda: draw.lognormal(0, 1, rows), lambda: draw.normal(50, 10, rows), lambda: draw.exponential(3, rows))
    made: Frame = {f"number{i}": laws[i % 3]() for i in range(numbers)}
    shares = np.array([0.3, 0.2, 0.15, 0.12, 0.1, 0.06, 0.04, 0.03])
    return made | {f"word{i}": draw.choice([f"w{n}" for n in range(8)], rows, p=shares) for i in range(words)}


def observed(columns: Frame, first: int) -> list[sketch.Observation]:
    """The frame's rows as ingest sees them, from sequence number `first` on."""
    names = list(columns)
    rows = zip(*(columns[name].tolist() for name in names), strict=True)
    return [
        sketch.Observation("bot", first + number, "feedback", dict(zip(names, row, strict=True)))
        for number, row in enumerate(rows)
    ]


class Place:
    """A database into which frames are sketched, one window after the other."""

    def __init__(self, folder: str) -> None:
        self.engine = db.connect(f"sqlite:///{folder}/learnd.db")
        schema.migrate(self.engine)
        self.last = sketch.BLOCK - 1

    def take(self, columns: Frame) -> tuple[int, float]:
        """Sketch a frame's rows; where it began, and the seconds that the sketches took."""
        first, rows = self.last, observed(columns, self.last + 1)
        begun = perf_counter()
        with Session(self.engine) as session, session.begin():
            for start in range(0, len(rows), 1000):
                sketch.add(session, rows[start : start + 1000])
        seconds = perf_counter() - begun
        self.last += len(rows)
        with Session(self.engine) as session, session.begin():
            session.execute(insert(Record), [record("bot", self.last, 0.0)])
        return first, seconds

    def freeze(self, first: int) -> dict[str, Any]:
        """What a baseline freezes of the records since `first`."""
        with Session(self.engine) as session:
            return windows.aggregates(windows.window(session, "bot", "inputs", first, self.last))

    def check(self, frozen: dict[str, Any], first: int, rows: int) -> tuple[bool, float]:
        """Whether the newest records since `first` drifted, and the seconds that the check took."""
        begun = perf_counter()
        with Session(self.engine) as session:
            size = rows // BLOCKS
            current = windows.current(session, "bot", "inputs", size=size, blocks=BLOCKS, after=first)
            report = psi.measure(windows.thaw(frozen), current, psi.Options(ignore=()))
        return report.drifted, perf_counter() - begun


class Evidently:
    """DataDriftPreset over two frames: its verdict (any column) and its seconds."""

    def __init__(self, **settings: Any) -> None:
        os.environ["DO_NOT_TRACK"] = "1"
        self.settings = settings

    def data(self, columns: Frame) -> Any:
        import pandas as pd
        from evidently import DataDefinition, Dataset

        numbers, words = ([name for name in columns if name.startswith(kind)] for kind in ("number", "word"))
        definition = DataDefinition(numerical_columns=numbers, categorical_columns=words)
        return Dataset.from_pandas(pd.DataFrame(columns), definition)

    def check(self, reference: Any, current: Any) -> tuple[bool, float]:
        from evidently import Report
        from evidently.presets import DataDriftPreset

        begun = perf_counter()
        made = Report([DataDriftPreset(**self.settings)]).run(current, reference).dict()
        seconds = perf_counter() - begun
        counted = next(m["value"] for m in made["metrics"] if "DriftedColumnsCount" in m["metric_name"])
        return counted["count"] > 0, seconds


def cost(place: Place, rows: int) -> dict[str, Any]:
    """Seconds of both over two windows of `rows` records with 20 columns, the best of seven and of two runs."""
    draw = np.random.default_rng(SEED)
    before, now = frame(draw, rows, 14, 6), frame(draw, rows, 14, 6)
    frozen = place.freeze(place.take(before)[0])
    first, sketched = place.take(now)
    ours = [place.check(frozen, first, rows)[1] for _ in range(7)]
    judge = Evidently()
    sides = judge.data(before), judge.data(now)
    theirs = [judge.check(*sides)[1] for _ in range(2)]
    return {
        "records": rows, "columns": 20, "check_seconds": ours, "evidently_seconds": theirs,
        "ingest_microseconds_a_record": sketched / rows * 1e6,
    }  # fmt: skip


def verdicts(place: Place, count: int) -> list[Verdict]:
    """Both verdicts on `count` windows, every other one unchanged."""
    draw, judge, by_psi = np.random.default_rng(SEED + 1), Evidently(), Evidently(method="psi", threshold=0.2)
    before = frame(draw, SMALL, 4, 2)
    frozen, reference = place.freeze(place.take(before)[0]), judge.data(before)
    told = []
    for number in range(count):
        now = frame(draw, SMALL, 4, 2)
        column, size = _move(draw, now) if number % 2 else ("", 0.0)
        first, _ = place.take(now)
        ours, data = place.check(frozen, first, SMALL)[0], judge.data(now)
        told.append(Verdict(column, size, ours, *(one.check(reference, data)[0] for one in (judge, by_psi))))
    return told


def _move(draw: np.random.Generator, columns: Frame) -> tuple[str, float]:
    """Move one column: a number by 0.2 to 1.5 of its deviations, or 2 to 50 percent of a word to a new one."""
    name = str(draw.choice(list(columns)))
    if name.startswith("word"):
        size = float(draw.uniform(0.02, 0.5))
        columns[name] = np.where(draw.random(SMALL) < size, "new", columns[name])
        return name, size
    size = float(draw.uniform(0.2, 1.5))
    columns[name] = columns[name] + size * columns[name].std()
    return name, size


def main() -> int:
    """Run it, write the JSON and the picture, and say which claims hold; 0 when all do."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.drift_cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="smaller windows, and fewer")
    given = parser.parse_args()
    rows, count = SIZES["quick" if given.quick else "full"]
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        told = verdicts(place, count)
        spent = cost(place, rows)
        place.engine.dispose()
    speedup = min(spent["evidently_seconds"]) / min(spent["check_seconds"])
    same = sum(one.ours == one.evidently for one in told) / len(told)
    claims = [common.Claim("speedup", speedup, SPEEDUP), common.Claim("same_verdict", same, SAME)]
    raw = {
        "cost": spent, "windows": len(told), "same_as_psi": sum(v.ours == v.evidently_psi for v in told) / len(told),
        "differ": [asdict(one) for one in told if one.ours != one.evidently],
        "differ_from_psi": [asdict(one) for one in told if one.ours != one.evidently_psi],
    }  # fmt: skip
    common.write(given.out, name="drift_cost", seeds=[SEED], raw=raw, claims=claims)
    common.picture(given.out, lambda axes: _draw(axes, told))
    sys.stdout.write(f"{common.told(claims)}\n{spent}\nby PSI {raw['same_as_psi']:.0%} the same\n{raw['differ']}\n")
    return 0 if all(claim.holds for claim in claims) else 1


def _draw(axes: Any, told: Sequence[Verdict]) -> None:
    places = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
    for kind, colour in (("number", "tab:blue"), ("word", "tab:orange"), ("", "tab:gray")):
        mine = [one for one in told if one.column.rstrip("0123456789") == kind]
        xs, ys = [one.size for one in mine], [places[one.ours, one.evidently] for one in mine]
        axes.scatter(xs, ys, color=colour, alpha=0.6, label=kind or "nothing moved")
    axes.set_yticks(range(4), ["neither", "learnd alone", "Evidently alone", "both"])
    axes.set_xlabel("how far the column moved (deviations, or share of a new word)")
    axes.set_title("Who says drift")
    axes.legend()


if __name__ == "__main__":
    sys.exit(main())
