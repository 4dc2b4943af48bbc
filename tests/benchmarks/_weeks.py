"""A product's weeks as sketches: what its users ask, on workdays and weekends, and how that drifts.

Owns: the little world of `drift_alarms`. Its records are drawn as counts of a block (what ingest makes of a hundred
records), not one by one: two hundred months are some four million records. Refuses to know detectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert
from sqlalchemy.orm import Session

from feedback import sketch
from feedback.tables import Record, Sketch

DAY = 86400.0
BLOCKS = (12, 12, 12, 12, 12, 8, 8)  # of a hundred records, Monday to Sunday
RATED = 80  # of the hundred
GOOD = (0.88, 0.80)  # on workdays, on weekends
WORDS: Mapping[str, tuple[list[float], list[float]]] = {
    "device": ([0.6, 0.3, 0.1], [0.25, 0.65, 0.1]),
    "language": ([0.7, 0.12, 0.08, 0.06, 0.04], [0.6, 0.12, 0.18, 0.06, 0.04]),
    "page": ([0.3, 0.25, 0.2, 0.15, 0.06, 0.04], [0.15, 0.25, 0.2, 0.3, 0.06, 0.04]),
    "topic": (
        [1 / (2 + rank) for rank in range(28)],
        [1 / (2 + rank) + (0.25 if 4 <= rank < 8 else 0.0) for rank in range(28)],
    ),
}
NUMBERS = {"latency": ((0.0, 0.6), (-0.35, 0.6)), "prompt_length": ((4.0, 0.7), (3.8, 0.8))}  # of the logarithm
NEW_TOPICS, SLOWER = 4, 0.6


@dataclass(frozen=True)
class Shift:
    """How far a day is from what was: the share of questions that are new in kind, and points of good ratings lost."""

    inputs: float = 0.0
    outcomes: float = 0.0


class Weeks:
    """One generator of blocks; the same seed draws the same ones."""

    def __init__(self, seed: int, *, weekdays: bool = True) -> None:
        self.draw = np.random.default_rng(seed)
        self.weekdays = weekdays  # False: the sketches don't tell which day it was
        self.bins = {name: [_number_bins(*law) for law in laws] for name, laws in NUMBERS.items()}
        self.slow = [_number_bins(mean + SLOWER, spread) for mean, spread in NUMBERS["latency"]]

    def day(self, session: Session, deployment: str, version: str, first: int, day: int, shift: Shift = Shift()) -> int:
        """Write the blocks of the `day`th day (0 is a Monday) of a deployment from block `first` on; how many they were."""
        weekend, blocks = day % 7 >= 5, BLOCKS[day % 7]
        label, rows, records = str(day % 7) if self.weekdays else "0", [], []
        for number in range(first, first + blocks):
            counts = self._columns(weekend, shift)
            keep = {"deployment": deployment, "block": number}
            rows += [{**keep, "kind": "feedback", "column": name, "counts": {label: c}} for name, c in counts.items()]
            rating = {label: self._ratings(weekend, shift)}
            rows.append({**keep, "kind": "outcomes", "column": version, "counts": rating})
            # Of the records themselves only each block's last is needed: it tells how far and when.
            records.append(record(deployment, number * sketch.BLOCK + sketch.BLOCK - 1, day * DAY))
        session.connection().execute(insert(Sketch.__table__), rows)
        session.connection().execute(insert(Record.__table__), records)
        return blocks

    def _columns(self, weekend: bool, shift: Shift) -> dict[str, dict[str, Any]]:
        counts: dict[str, dict[str, Any]] = {sketch.RECORDS: {"n": sketch.BLOCK, "1": sketch.BLOCK}}
        new = int(self.draw.binomial(sketch.BLOCK, shift.inputs))
        for name, laws in WORDS.items():
            shares = np.array(laws[weekend]) / sum(laws[weekend])
            old = sketch.BLOCK - new if name == "topic" else sketch.BLOCK
            drawn = {f"={name}{i}": int(n) for i, n in enumerate(self.draw.multinomial(old, shares)) if n}
            if name == "topic":
                fresh = self.draw.multinomial(new, [1 / NEW_TOPICS] * NEW_TOPICS)
                drawn |= {f"=new{i}": int(n) for i, n in enumerate(fresh) if n}
            counts[name] = {"n": sketch.BLOCK, **drawn}
        for name, sides in self.bins.items():
            counts[name] = _drawn(self.draw, sketch.BLOCK - (new if name == "latency" else 0), sides[weekend])
        for name, value in _drawn(self.draw, new, self.slow[weekend]).items():
            counts["latency"][name] = counts["latency"].get(name, 0) + value
        return counts

    def _ratings(self, weekend: bool, shift: Shift) -> dict[str, Any]:
        good = int(self.draw.binomial(RATED, GOOD[weekend] - shift.outcomes))
        return {"n": RATED, "good": good, "bad": RATED - good}


def _number_bins(mean: float, spread: float) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
    """The fixed bins of a lognormal number, their shares and their middles."""
    values = np.random.default_rng(0).lognormal(mean, spread, 100_000)
    numbers, counts = np.unique([sketch.number_bin(float(value)) for value in values], return_counts=True)
    middles = np.array([sum(sketch.edges(int(number))) / 2 for number in numbers])
    return [int(number) for number in numbers], counts / counts.sum(), middles


def _drawn(
    draw: np.random.Generator, n: int, law: tuple[list[int], NDArray[np.float64], NDArray[np.float64]]
) -> dict[str, Any]:
    numbers, shares, middles = law
    drawn = draw.multinomial(n, shares)
    bins = {str(number): int(count) for number, count in zip(numbers, drawn, strict=True) if count}
    return {"n": n, "sum": float(drawn @ middles), "squares": float(drawn @ middles**2), **bins}


def record(deployment: str, seq: int, at: float) -> dict[str, Any]:
    """A record of which only its place and time matter."""
    return {
        "seq": seq, "deployment": deployment, "id": str(seq), "kind": "feedback", "time": at, "ingested": at,
        "fold": "train", "content_hash": "", "commitment": "", "features": {}, "body": {}, "source": "weeks",
    }  # fmt: skip
