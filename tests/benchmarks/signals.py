"""Learning from ratings alone: what a thumb, a pair and a correction are worth, a tenth of them false.

Owns: the table, the claims, the picture. Refuses to know how records come about and are learned (`_signals`). Called as
`python -m tests.benchmarks.signals --out FILE [--quick] [--validate] [--seeds N ...]`.

A model knows three domains of banking77 and has seen little of a fourth, the rated one. Its users send so many records of
one signal, three quarters of them about that domain; as many old ones are there to be replayed. The update is the
product's, with its policy's defaults but for the peaks of the learning rates, which are meant for models of billions of
parameters; these are of a few that were tried on seed 0, on training queries that nobody was asked (`--validate`). The
line `praise` makes no claim: it is the thumbs again with KTO switched off, so that praised answers are imitated.
Each seed is judged as the gates do, on paired test queries, and a claim is what the worst seed proves: the lower bound of
the gain on the rated domain, the upper bound of the loss on the others together.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.benchmarks import _signals as users  # first: it sets the environment that transformers reads

# isort: split
from policies.gates import improvement, regression
from policies.stats import paired_difference
from tests.benchmarks import _banking77 as bank
from tests.benchmarks import common
from tests.benchmarks._lasting import tell
from tests.benchmarks._signals import PRAISE, RATED, SIGNALS, Plan

OPTIONS = {"sft_lr": 2.5e-3, "dpo_lr": 5e-4, "kto_lr": 5e-4, "threads": 1, "save_steps": 0}
FULL = Plan(OPTIONS)
QUICK = Plan({**OPTIONS, "batch": 8}, records=200)  # as many steps of fewer examples
GAIN = 1.0  # points that the worst seed has to prove
MARGIN = 100 * regression.Options().margin

Marks = Mapping[int, Sequence[float]]


def main() -> int:
    """Run it; 0 when every claim holds."""
    parser = argparse.ArgumentParser(prog="signals", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one seed, 200 records of a signal")
    parser.add_argument("--validate", action="store_true", help="test on training queries that nobody was asked")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    if not bank.FOLDER.is_dir():
        sys.stderr.write(f"{bank.FOLDER} is not there: put banking77's train.csv, test.csv and categories.json there\n")
        return 69
    seeds = given.seeds[:1] if given.quick else given.seeds
    plan = replace(QUICK if given.quick else FULL, validate=given.validate)
    began, runs = perf_counter(), []
    with tempfile.TemporaryDirectory(prefix="learnd-signals-") as folder:
        for seed in seeds:
            runs.append(users.course(plan, seed, Path(folder) / str(seed)))
            tell(f"seed {seed}, after {perf_counter() - began:.0f} s\n{told(table(runs[-1:], plan))}")
    rows = table(runs, plan)
    claims = claimed(rows)
    raw = {
        "plan": asdict(plan),
        "table": rows,
        "runs": runs,
        "seconds": round(perf_counter() - began),
    }
    common.write(given.out, name="signals", seeds=seeds, raw=raw, claims=claims)
    common.picture(given.out, lambda axes: drawn(axes, rows))
    sys.stdout.write(told(rows) + "\n" + common.told(claims) + "\n")
    return 0 if all(claim.holds for claim in claims) else 1


def judge(run: Mapping[str, Any], signal: str) -> dict[str, Any]:
    """One update against its champion, in points: what the gates of improvement and regression look at."""
    before, after = run["before"], run[signal]["right"]
    known = [domain for domain in before if domain != RATED]
    return {
        "signal": signal,
        "seed": run["seed"],
        "before": 100 * _mean(before[RATED]),
        "after": 100 * _mean(after[RATED]),
        "gain": _difference(before, after, [RATED], improvement.Options().error_rate),
        "elsewhere": _difference(before, after, known, regression.Options().error_rate),
        "domains": {bank.NAMES[domain]: 100 * (_mean(after[domain]) - _mean(before[domain])) for domain in before},
    }


def _difference(before: Marks, after: Marks, domains: Sequence[int], error: float) -> list[float]:
    """[value, low, high] of the gain on some domains together, in points; `error` is one-sided, as a gate's."""
    first, second = ([mark for domain in domains for mark in marks[domain]] for marks in (after, before))
    low, high = paired_difference(first, second, 2 * error)
    return [100 * (_mean(first) - _mean(second)), 100 * low, 100 * high]


def table(runs: Sequence[Mapping[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """A line a signal: means over the seeds, and what all seeds' intervals lie within; `worth`: points gained on the rated
    domain by 100 new records, about whatever they are; `seeds`: what each was judged to be.
    """
    rows = []
    for name in (*SIGNALS, PRAISE):
        judged = [judge(run, name) for run in runs]
        means = {key: round(_mean([one[key] for one in judged]), 2) for key in ("before", "after")}
        spans = {key: _spanning([one[key] for one in judged]) for key in ("gain", "elsewhere")}
        worth = round(100 * spans["gain"][0] / plan.records, 2)
        rows.append({"signal": name, **means, **spans, "worth": worth, "seeds": judged})
    return rows


def _spanning(figures: Sequence[Sequence[float]]) -> list[float]:
    values, lows, highs = zip(*figures, strict=True)
    return [round(value, 2) for value in (_mean(values), min(lows), max(highs))]


def claimed(rows: Sequence[Mapping[str, Any]]) -> list[common.Claim]:
    """What the worst seed proves of each signal as the defaults learn from it, in points."""
    rows = [row for row in rows if row["signal"] != PRAISE]
    gains = [common.Claim(f"{row['signal']}_gain", row["gain"][1], GAIN) for row in rows]
    return [
        *gains,
        common.Claim("worst_loss_elsewhere", max(-row["elsewhere"][1] for row in rows), MARGIN, least=False),
    ]


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, for a person."""
    lines = [f"{'signal':12}{'before':>8}{'after':>8}{'gain':>24}{'elsewhere':>24}{'gain a 100 records':>20}"]
    for row in rows:
        spans = "".join(
            f"{f'{value:+.1f} [{low:+.1f}, {high:+.1f}]':>24}" for value, low, high in (row["gain"], row["elsewhere"])
        )
        lines.append(f"{row['signal']:12}{row['before']:8.1f}{row['after']:8.1f}{spans}{row['worth']:+20.2f}")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def drawn(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """What each signal gained where it was given, and what happened elsewhere."""
    for key, shift, label in (("gain", -0.2, "the rated domain"), ("elsewhere", 0.2, "the known domains")):
        around = [(value - low, high - value) for value, low, high in (row[key] for row in rows)]
        places, spans = [place + shift for place in range(len(rows))], [*zip(*around, strict=True)]
        axes.bar(places, [row[key][0] for row in rows], width=0.38, yerr=spans, capsize=4, label=label)
    axes.axhline(-MARGIN, color="grey", linestyle=":", label=f"margin, {MARGIN:g} points")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows)), [f"{row['signal']}\n{row['worth']:+.2f} a 100 records" for row in rows])
    axes.set_ylabel("test queries answered right, change in points")
    axes.set_title("What a signal is worth, a tenth of it false")
    axes.legend()
    axes.grid(alpha=0.3, axis="y")


if __name__ == "__main__":
    sys.exit(main())
