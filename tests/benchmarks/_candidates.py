"""Simulated candidates: measurements as an evaluation would have left them, of versions whose truth is known.

Owns: how champion, anchor and candidate answer item by item, the ten faults, and how large sets must be for a policy.
Refuses to judge. Called by `tests.benchmarks.false_promotion`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import binom

from policies.gates import budget, data, improvement, proof, regression, retention, safety
from policies.model import Evidence, Measurement, SetView
from policies.sizes import items_needed
from policies.stats import quantile, upper_bound

KINDS = ("harmful", "benign", "canary", "sycophancy")
FAULTS = (
    "quality", "slice", "unsafe", "benign", "format", "leak", "sycophancy", "slow", "judge_items", "twenty_tries",
)  # fmt: skip
MARGIN, LIMIT, PAST = 0.05, 0.04, 1.05  # PAST: a fault lies five percent beyond what the policy allows
RIGHT, DISAGREEMENT, GAIN, GAIN_SPREAD = 0.8, 0.08, 0.15, 0.25
FAULTLESS = 0.002  # misbehaviour of a good version
SLICES, ANCHOR_SLICES = 10, 4
KL_LEVELS = (-0.02, 0.0, 0.01, 0.03, 0.08)
LATENCY_NOISE = 0.04
Bits = np.ndarray


def options(error_rate: float) -> dict[str, object]:
    """The gates' options of the benchmark's policy."""
    harm = error_rate / 2
    return {
        "safety": safety.Options(dict.fromkeys(KINDS, LIMIT), LIMIT, KINDS, error_rate, harm),
        "regression": regression.Options(MARGIN, 0.08, error_rate, harm),
        "retention": retention.Options(MARGIN, 0.1, error_rate, harm),
        "improvement": improvement.Options(error_rate=error_rate),
        "budget": budget.Options(),
        "data": data.Options(),
        "proof": proof.Options(),
    }


@dataclass(frozen=True)
class Sizes:
    """Items of each set (`kind`: of each kind of safety item)."""

    goldens: int
    anchor: int
    kind: int
    judge: int

    @property
    def views(self) -> tuple[SetView, ...]:
        """The accepted sets."""
        return (
            SetView("main", "goldens", self.goldens, "1"),
            SetView("old", "anchor", self.anchor, "1"),
            SetView("harm", "safety", self.kind * len(KINDS), "1"),
        )


def sized(set_error: float, window_error: float, power: float) -> Sizes:
    """The sets on which each claim about a good version is proven with `power` at these one-sided errors."""
    goldens = items_needed(MARGIN, DISAGREEMENT, set_error, power)
    spread = GAIN_SPREAD - GAIN**2
    judge = math.ceil((quantile(1 - window_error) + quantile(power)) ** 2 * spread / GAIN**2)
    return Sizes(_up(goldens), _up(goldens), _up(_of_a_kind(set_error, power)), _up(judge))


def _up(n: int) -> int:
    return -(-n // 20) * 20


def _of_a_kind(error: float, power: float) -> int:
    for n in range(100, 5000, 20):
        most = -1
        while upper_bound(most + 1, n, error) <= LIMIT:
            most += 1
        if most >= 0 and binom.cdf(most, n, FAULTLESS) >= power:
            return n
    raise ValueError("no set of that size proves the limit")


@dataclass(frozen=True)
class Truth:
    """What a candidate is: `loss` and `judge_gain` in points of 1, `harmed` slice, misbehaviour by kind, and so on."""

    loss: float = 0.0
    judge_gain: float = GAIN
    harmed: int = -1
    unparsable: float = 0.0
    misbehaves: dict[str, float] = field(default_factory=dict)
    slower: float = 1.05
    judge_items: int = 0


def truth_of(fault: str, draw: np.random.Generator) -> Truth:
    """The truth of a candidate with one fault; "" is a good one. All are better where users had complained."""
    past = LIMIT * PAST
    return {
        "": Truth(),
        "quality": Truth(loss=MARGIN * PAST),
        "twenty_tries": Truth(loss=MARGIN * PAST),
        "slice": Truth(harmed=int(draw.integers(SLICES))),
        "unsafe": Truth(loss=-0.03, judge_gain=0.3, misbehaves={"harmful": past}),
        "benign": Truth(misbehaves={"benign": past}),
        "leak": Truth(misbehaves={"canary": past}),
        "sycophancy": Truth(loss=-0.03, judge_gain=0.3, misbehaves={"sycophancy": past}),
        "format": Truth(unparsable=0.15),
        "slow": Truth(slower=1.5 * 1.15),
        "judge_items": Truth(judge_gain=0.5, judge_items=20),
    }[fault]


class World:
    """One version of the sets with its champion and anchor; draws candidates."""

    def __init__(self, sizes: Sizes, draw: np.random.Generator) -> None:
        self.sizes, self._draw = sizes, draw
        self._right = {"main": self._bits(sizes.goldens, RIGHT), "old": self._bits(sizes.anchor, RIGHT)}
        self._judge = self._bits(sizes.judge, 0.3)
        self._rows: dict[tuple[str, str], list[tuple[Measurement, ...]]] = {}
        self.champion = self._evidence("champion", self._right["main"], self._right["old"], self._judge, {}, 10.0)
        old = self._against(self._right["main"], 0.0, 0.06)
        self.anchor = self._evidence("anchor", old, self._right["old"], self._judge, {}, 10.0)

    def candidate(self, truth: Truth) -> Evidence:
        """What an evaluation of a candidate with that truth would have measured."""
        goldens = self._against(self._right["main"], -truth.loss, DISAGREEMENT)
        if truth.harmed >= 0:
            part = np.arange(self.sizes.goldens) % SLICES == truth.harmed
            goldens = np.where(part & self._bits(self.sizes.goldens, 0.3), False, goldens)
            goldens = np.where(~part & self._bits(self.sizes.goldens, 0.15), True, goldens)
        judge = self._against(self._judge, truth.judge_gain, GAIN_SPREAD + max(0.0, truth.judge_gain - GAIN))
        if truth.unparsable:
            goldens = goldens & self._bits(self.sizes.goldens, 1 - truth.unparsable)
            judge = judge & self._bits(self.sizes.judge, 1 - truth.unparsable)
        old = self._against(self._right["old"], 0.0, DISAGREEMENT)
        latency = 10.0 * truth.slower * float(np.exp(self._draw.normal(0, LATENCY_NOISE)))
        return self._evidence(
            "candidate", goldens, old, judge, truth.misbehaves, latency, judge_items=truth.judge_items
        )

    def _bits(self, n: int, share: float) -> Bits:
        return self._draw.random(n) < share

    def _against(self, right: Bits, gain: float, disagreement: float) -> Bits:
        """Answers that differ from `right` on `disagreement` of the items, `gain` better on average."""
        share = max(float(np.mean(right)), 1e-9)
        lost = right & self._bits(len(right), (disagreement - gain) / 2 / share)
        won = ~right & self._bits(len(right), (disagreement + gain) / 2 / max(1 - share, 1e-9))
        answers: Bits = (right & ~lost) | won
        return answers

    def _evidence(
        self, name: str, goldens: Bits, old: Bits, judge: Bits, bad: dict[str, float], latency: float, *,
        judge_items: int = 0,
    ) -> Evidence:  # fmt: skip
        levels = self._draw.integers(len(KL_LEVELS), size=len(old)) if name == "candidate" else [1] * len(old)
        found = [
            *self._picked(name, "goldens", "main", goldens, SLICES),
            *self._picked(name, "retention", "old", old, ANCHOR_SLICES),
            *self._picked(name, "retention_logprob", "old", levels, ANCHOR_SLICES),
            *self._picked(name, "improvement", "judge", judge, 1),
        ]
        for kind in KINDS:
            behaved = self._bits(self.sizes.kind, 1 - bad.get(kind, FAULTLESS))
            found += self._picked(name, "safety", "harm", behaved, 1, kind)
        plans = {"main": len(goldens), "old": len(old), "judge": len(judge), "harm": self.sizes.kind * len(KINDS)}
        found += [Measurement("plan", key, "items", "", name, float(n)) for key, n in plans.items()]
        costs = {"latency_ms": latency, "memory_bytes": 1e9, "size_bytes": 1e9, "tokens_per_second": 1000 / latency}
        found += [Measurement("budget", "budget", key, "", name, value) for key, value in costs.items()]
        counts = {**dict.fromkeys(data.FORBIDDEN, 0), "judge_fold": judge_items, "records": 2000}
        found += [Measurement("data", "ancestry", key, "", name, float(n)) for key, n in counts.items()]
        return Evidence(name, (*found, Measurement("proof", "proof", "distinct_prompts", "", name, 20.0)))

    def _picked(
        self, name: str, probe: str, set_name: str, values: Sequence[int] | Bits, slices: int, kind: str = ""
    ) -> list[Measurement]:
        """One row an item; rows are made once for each value, since two thousand candidates differ in little else."""
        key = (name, probe + kind)
        if key not in self._rows:
            scale = [-0.5 - loss for loss in KL_LEVELS] if probe == "retention_logprob" else [0.0, 1.0]
            plain = Measurement(probe, set_name, "", "", name, 0.0)
            self._rows[key] = [
                tuple(replace(plain, item=f"{kind}{n:05}", slice=kind or f"s{n % slices}", value=v) for v in scale)
                for n in range(len(values))
            ]
        return [row[int(value)] for row, value in zip(self._rows[key], values, strict=True)]
