"""How often a harmful candidate is promoted, and a good one is not: simulated candidates through the real gates.

Owns: the course, what others would have done with the same measurements, the figures and claims. Refuses to touch a
threshold: the sets are sized for the policy, by the policy's own arithmetic. Called as
`python -m tests.benchmarks.false_promotion --out FILE [--quick] [--seed N]`.

A faulty candidate has one fault a little beyond what the policy allows: where a fault is far beyond, any rule finds it.
Each meets sets of which others have spent a part of the error rate; `twenty_tries` is twenty candidates in a row, of
which the first that passes is promoted.

Beside the simulated ones, real tiny models are trained, measured and judged (`_real`); a large exam says what they are.
"""

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from policies import gates, ledger
from policies.ledger import Share
from policies.model import Evidence, Result
from policies.stats import clopper_pearson
from tests.benchmarks import _real, common
from tests.benchmarks._candidates import FAULTS, KINDS, LIMIT, MARGIN, Sizes, World, options, sized, truth_of
from tests.benchmarks.common import Claim
from tests.servers import folder

ERROR_RATE, CANDIDATES, TRIES, MOST = 0.01, 10.0, 3, 20
POWER_OF_A_CLAIM = 0.998  # of each of a dozen, so that all of them together keep 95 %
WORLDS = 20
ALONE = "without_ledger"
RULES = ("learnd", "thresholds", "final_above_initial")


@dataclass(frozen=True)
class Plan:
    """How many: faulty candidates of each kind, rows of twenty tries, good ones; every which real one is made."""

    each: int
    rows: int
    good: int
    every: int


FULL, QUICK = Plan(107, 40, 1000, 1), Plan(33, 4, 60, 9)
REAL_GOOD = 12  # beside two dozen real ones that were taught something wrong
REAL_POWER = 0.95  # of each claim about a real good one: it disagrees less than its sets were sized for


def main() -> int:
    """Run it; 0 when every claim holds."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.false_promotion")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began, plan = time.perf_counter(), QUICK if given.quick else FULL
    sizes = sized(ERROR_RATE * _shares()[-1].share, ERROR_RATE / TRIES, POWER_OF_A_CLAIM)
    draw = np.random.default_rng(given.seed)
    worlds = [World(sizes, draw) for _ in range(WORLDS)]
    bad = {fault: _faulty(worlds, fault, plan, draw) for fault in FAULTS}
    good = [_one(worlds[n % WORLDS], "", draw) for n in range(plan.good)]
    with folder("learnd-real-") as place:
        real = _real_ones(place, plan, given.seed, draw)
    raw = {**_figures(bad, good), "real": real, "sizes": _told(sizes)}
    raw["seconds"] = round(time.perf_counter() - began, 1)
    claims = _claims(raw)
    common.write(given.out, name="false_promotion", seeds=[given.seed], raw=raw, claims=claims)
    common.picture(given.out, lambda axes: _draw(axes, raw))
    sys.stdout.write(common.told(claims) + "\n")
    return 0 if all(claim.holds for claim in claims) else 1


@dataclass(frozen=True)
class Outcome:
    """What each rule did with a candidate: promoted or not; `answer` is learnd's, `by` the gates that stood against."""

    promoted: dict[str, bool]
    answer: str
    by: tuple[str, ...] = ()


def _faulty(worlds: list[World], fault: str, plan: Plan, draw: np.random.Generator) -> list[Outcome]:
    if fault != "twenty_tries":
        return [_one(worlds[n % WORLDS], fault, draw) for n in range(plan.each)]
    return [_row(worlds[n % WORLDS], fault, draw) for n in range(plan.rows)]


def _one(world: World, fault: str, draw: np.random.Generator) -> Outcome:
    """One candidate that comes as any of the first twenty on its sets."""
    return _judged(world, fault, draw, int(draw.integers(1, MOST + 1)), int(draw.integers(1, TRIES + 1)))


def _row(world: World, fault: str, draw: np.random.Generator) -> Outcome:
    """Twenty candidates in a row, each of a window of its own; promoted where any of them is."""
    row = [_judged(world, fault, draw, number, 1, alone=True) for number in range(1, MOST + 1)]
    any_of = {rule: any(outcome.promoted[rule] for outcome in row) for rule in (*RULES, ALONE)}
    answers = [outcome.answer for outcome in row]
    return Outcome(any_of, max(answers, key=["fail", "inconclusive", "pass"].index))


def _judged(
    world: World, fault: str, draw: np.random.Generator, number: int, attempt: int, *, alone: bool = False
) -> Outcome:
    """What each rule does with a candidate; `alone`: also the gate that its fault is for, as if there was no ledger."""
    candidate = world.candidate(truth_of(fault, draw))
    share = _shares()[number - 1]
    shares = {**dict.fromkeys(("safety", "regression", "retention"), share), "improvement": _tries()[attempt - 1]}
    verdicts = gates.judge_all(
        candidate, world.champion, world.anchor, options(ERROR_RATE), sets=world.sizes.views, shares=shares
    )
    worst = max((verdict.result for verdict in verdicts), key=lambda result: result.severity)
    by = tuple(verdict.gate for verdict in verdicts if verdict.result is not Result.PASS)
    promoted = {"learnd": worst is Result.PASS, **_others(candidate, world.champion)}
    if alone:
        whole = options(ERROR_RATE)["regression"]
        verdict = gates.load("regression").judge(candidate, world.champion, world.anchor, whole)
        promoted[ALONE] = verdict.result is Result.PASS
    return Outcome(promoted, worst.value, by)


def _real_ones(place: Path, plan: Plan, seed: int, draw: np.random.Generator) -> list[dict[str, Any]]:
    """What each rule does with every real candidate, on sets of which others have spent a part, as with simulated ones."""
    sizes = sized(ERROR_RATE * _shares()[-1].share, ERROR_RATE / TRIES, REAL_POWER)
    found = []
    for one in _real.judged(place, _real.taught(1, REAL_GOOD)[:: plan.every], sizes, seed):
        share, tries = _shares()[int(draw.integers(MOST))], _tries()[int(draw.integers(TRIES))]
        shares = {**dict.fromkeys(("safety", "regression", "retention"), share), "improvement": tries}
        verdicts = gates.judge_all(
            one.candidate, one.champion, None, _real.policy(ERROR_RATE), sets=_real.views(sizes), shares=shares
        )
        worst = max((verdict.result for verdict in verdicts), key=lambda result: result.severity)
        promoted = {"learnd": worst is Result.PASS, **_others(one.candidate, one.champion, _real.KINDS)}
        by = [verdict.gate for verdict in verdicts if verdict.result is not Result.PASS]
        told = {"name": one.taught.name, "truth": one.truth, "lost": dict(one.lost)}
        found.append({**told, "promoted": promoted, "answer": worst.value, "by": by})
        sys.stdout.write(f"{one.taught.name}: in truth {one.truth}; {worst.value} {', '.join(by)}\n")
        sys.stdout.flush()
    return found


def _others(candidate: Evidence, champion: Evidence, kinds: tuple[str, ...] = KINDS) -> dict[str, bool]:
    """What is done elsewhere: the final score above the initial one; thresholds on point estimates.

    The thresholds are those of the policy, without intervals: change of the score, rate by kind, latency, a gain.
    """
    score, before = _mean(candidate, "goldens"), _mean(champion, "goldens")
    rates = {kind: 1 - _mean(candidate, "safety", kind) for kind in kinds}
    latency = _mean(candidate, "budget", item="latency_ms") / _mean(champion, "budget", item="latency_ms")
    gain = _mean(candidate, "improvement") - _mean(champion, "improvement")
    kept = _mean(candidate, "retention") - _mean(champion, "retention") >= -MARGIN
    within = all(rate <= LIMIT for rate in rates.values()) and latency <= 1.5 and kept
    return {
        "thresholds": score - before >= -MARGIN and within and gain > 0,
        "final_above_initial": score > before,
    }


def _mean(evidence: Evidence, probe: str, kind: str = "", item: str = "") -> float:
    values = [
        row.value
        for row in evidence.by_probe[probe]
        if (not kind or row.slice == kind) and (not item or row.item == item)
    ]
    return sum(values) / len(values)


@cache
def _shares() -> list[Share]:
    """What the ledger gives the first twenty candidates of a set."""
    found: list[Share] = []
    for _ in range(MOST):
        found.append(ledger.of_set([share.share for share in found], CANDIDATES))
    return found


@cache
def _tries() -> list[Share]:
    found: list[Share] = []
    for _ in range(TRIES):
        found.append(ledger.of_window([share.share for share in found], TRIES))
    return found


def _figures(bad: dict[str, list[Outcome]], good: list[Outcome]) -> dict[str, Any]:
    every = [outcome for outcomes in bad.values() for outcome in outcomes]
    return {
        "error_rate": ERROR_RATE,
        "faulty": len(every),
        "good": len(good),
        "false": {rule: sum(o.promoted[rule] for o in every) for rule in RULES},
        "false_by_fault": {
            fault: {rule: sum(o.promoted[rule] for o in found) / len(found) for rule in RULES}
            for fault, found in bad.items()
        },
        "twenty_tries_without_ledger": sum(o.promoted[ALONE] for o in bad["twenty_tries"]) / len(bad["twenty_tries"]),
        "faulty_answers": dict(Counter(outcome.answer for outcome in every)),
        "faulty_answers_by_fault": {fault: dict(Counter(o.answer for o in found)) for fault, found in bad.items()},
        "good_promoted": {rule: sum(o.promoted[rule] for o in good) for rule in RULES},
        "good_answers": dict(Counter(outcome.answer for outcome in good)),
        "good_refused_by": dict(Counter(gate for outcome in good for gate in outcome.by)),
    }


def _told(sizes: Sizes) -> dict[str, int]:
    return {"goldens": sizes.goldens, "anchor": sizes.anchor, "safety_of_a_kind": sizes.kind, "judge": sizes.judge}


def _claims(raw: dict[str, Any]) -> list[Claim]:
    harmful, good = (_of(raw["real"], truth) for truth in ("faulty", "good"))
    faulty = raw["faulty"] + len(harmful)
    false = {rule: raw["false"][rule] + sum(one["promoted"][rule] for one in harmful) for rule in RULES}
    upper = clopper_pearson(false["learnd"], faulty, 0.1)[1]
    return [
        Claim("false_rate", false["learnd"] / faulty, ERROR_RATE, least=False),
        Claim("false_upper95", upper, ERROR_RATE, least=False),
        Claim("real_false", sum(one["promoted"]["learnd"] for one in harmful), 0, least=False),
        Claim("real_power", sum(one["promoted"]["learnd"] for one in good) / max(1, len(good)), 0.9),
        Claim("power", raw["good_promoted"]["learnd"] / raw["good"], 0.95),
        Claim("naive_false_rate", min(false[rule] for rule in RULES[1:]) / faulty, 0.1),
    ]


def _of(real: list[dict[str, Any]], truth: str) -> list[dict[str, Any]]:
    return [one for one in real if one["truth"] == truth]


def _draw(axes: Any, raw: dict[str, Any]) -> None:
    labels = {
        "learnd": "learnd",
        "thresholds": "thresholds without intervals (as TFX)",
        "final_above_initial": "final > initial",
    }
    for shift, rule in enumerate(RULES):
        places = [n + 0.27 * (shift - 1) for n in range(len(FAULTS) + 1)]
        rates = [raw["false_by_fault"][fault][rule] for fault in FAULTS] + [raw["good_promoted"][rule] / raw["good"]]
        axes.bar(places, [100 * rate for rate in rates], width=0.25, label=labels[rule])
    axes.set_xticks(range(len(FAULTS) + 1), [*(f.replace("_", "\n") for f in FAULTS), "good\nones"])
    axes.set_ylabel("promoted, %")
    axes.set_title(f"{raw['faulty']:,} faulty candidates and {raw['good']:,} good ones, by fault")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=3)


if __name__ == "__main__":
    sys.exit(main())
