"""A product's weeks as sketches: what its users ask, on workdays and weekends, and how that drifts.

Owns: the little world of `drift_alarms`. Its records are drawn as counts of a block and of each tenant in it (what ingest
makes of a hundred records), not one by one: two hundred months are four million records. Refuses to know detectors.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert
from sqlalchemy.orm import Session

from feedback import counts, sketch
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
TENANTS = (0.34, 0.2, 0.14, 0.1, 0.08, 0.06, 0.05, 0.03)  # shares of the records


@dataclass(frozen=True)
class Shift:
    """How far a day is from what was: the share of questions that are new in kind, and points of good ratings lost.

    `tenant`: whose alone they are, by number (-1: everybody's).
    """

    inputs: float = 0.0
    outcomes: float = 0.0
    tenant: int = -1

    def of_each(self, amount: float) -> NDArray[np.float64]:
        """The amount by tenant."""
        return np.array([amount if self.tenant in (-1, number) else 0.0 for number in range(len(TENANTS))])


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
            sizes = self.draw.multinomial(sketch.BLOCK, TENANTS)
            each = self._columns(weekend, shift, sizes)
            keep = {"deployment": deployment, "block": number}
            whole = _summed(each)
            rows += [{**keep, "kind": "feedback", "column": name, "counts": {label: c}} for name, c in whole.items()]
            rows += [
                {
                    **keep,
                    "kind": "feedback" + sketch.SLICED,
                    "column": f"tenant=t{tenant}",
                    "counts": _labelled(mine, label),
                }
                for tenant, mine in enumerate(each)
                if mine
            ]
            rating = {label: self._ratings(weekend, shift)}
            rows.append({**keep, "kind": "outcomes", "column": version, "counts": rating})
            # Of the records themselves only each block's last is needed: it tells how far and when.
            records.append(record(deployment, number * sketch.BLOCK + sketch.BLOCK - 1, day * DAY))
        session.connection().execute(insert(Sketch.__table__), rows)
        session.connection().execute(insert(Record.__table__), records)
        return blocks

    def _columns(self, weekend: bool, shift: Shift, sizes: NDArray[np.int64]) -> list[dict[str, dict[str, Any]]]:
        """The columns' counts of each tenant with records in the block; an empty one has none."""
        made: list[dict[str, dict[str, Any]]] = [
            {sketch.RECORDS: {"n": int(n), "1": int(n)}} if n else {} for n in sizes
        ]
        new = self.draw.binomial(sizes, shift.of_each(shift.inputs))
        for name, laws in WORDS.items():
            shares = np.array(laws[weekend]) / sum(laws[weekend])
            drawn = self.draw.multinomial(sizes - new if name == "topic" else sizes, shares)
            for tenant, n in _present(sizes):
                found = {f"={name}{i}": int(drawn[tenant, i]) for i in np.flatnonzero(drawn[tenant])}
                if name == "topic" and new[tenant]:
                    fresh = self.draw.multinomial(new[tenant], [1 / NEW_TOPICS] * NEW_TOPICS)
                    found |= {f"=new{i}": int(k) for i, k in enumerate(fresh) if k}
                made[tenant][name] = {"n": n, **found}
        for name, sides in self.bins.items():
            slow = new if name == "latency" else np.zeros_like(new)
            usual, slower = (
                self.draw.multinomial(amount, law[1])
                for amount, law in ((sizes - slow, sides[weekend]), (slow, self.slow[weekend]))
            )
            for tenant, n in _present(sizes):
                parts = ((usual[tenant], sides[weekend]), (slower[tenant], self.slow[weekend]))
                made[tenant][name] = {"n": n, **_number(parts)}
        return made

    def _ratings(self, weekend: bool, shift: Shift) -> dict[str, Any]:
        sizes = self.draw.multinomial(RATED, TENANTS)
        good = self.draw.binomial(sizes, GOOD[weekend] - shift.of_each(shift.outcomes))
        told: dict[str, Any] = {"n": RATED, "good": int(good.sum()), "bad": RATED - int(good.sum())}
        told |= {f"+tenant=t{tenant}": int(n) for tenant, n in enumerate(good) if n}
        return told | {f"-tenant=t{tenant}": int(n) for tenant, n in enumerate(sizes - good) if n}


def _present(sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
    return [(tenant, int(n)) for tenant, n in enumerate(sizes) if n]


def _labelled(columns: Mapping[str, dict[str, Any]], label: str) -> dict[str, Any]:
    return {name: {label: flat} for name, flat in columns.items()}


def _summed(tenants: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    total: dict[str, dict[str, Any]] = {}
    for columns in tenants:
        counts.add(total, columns)
    return total


Law = tuple[list[int], NDArray[np.float64], NDArray[np.float64]]


def _number(parts: Iterable[tuple[NDArray[np.int64], Law]]) -> dict[str, Any]:
    """The counts of numbers that were drawn from several laws: sums, and the bins that were hit."""
    told: dict[str, Any] = {"sum": 0.0, "squares": 0.0}
    for drawn, (numbers, _, middles) in parts:
        told["sum"] += float(drawn @ middles)
        told["squares"] += float(drawn @ middles**2)
        for place in np.flatnonzero(drawn):
            told[str(numbers[place])] = told.get(str(numbers[place]), 0) + int(drawn[place])
    return told


def _number_bins(mean: float, spread: float) -> Law:
    """The fixed bins of a lognormal number, their shares and their middles."""
    values = np.random.default_rng(0).lognormal(mean, spread, 100_000)
    numbers, counts = np.unique([sketch.number_bin(float(value)) for value in values], return_counts=True)
    middles = np.array([sum(sketch.edges(int(number))) / 2 for number in numbers])
    return [int(number) for number in numbers], counts / counts.sum(), middles


def record(deployment: str, seq: int, at: float) -> dict[str, Any]:
    """A record of which only its place and time matter."""
    return {
        "seq": seq, "deployment": deployment, "id": str(seq), "kind": "feedback", "time": at, "ingested": at,
        "fold": "train", "content_hash": "", "commitment": "", "features": {}, "body": {}, "source": "weeks",
    }  # fmt: skip
