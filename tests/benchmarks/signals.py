"""Learning from ratings alone: what a thumb, a pair and a correction are worth, a tenth of them false.

Owns: the table, the claims, the picture. Refuses to know how records come about and are learned (`_signals`). Called as
`python -m tests.benchmarks.signals --out FILE [--quick] [--validate] [--seeds N ...] [--workers N]`.

A model knows three domains of banking77 and has seen little of a fourth, the rated one. Its users send so many records of
one signal, three quarters of them about that domain; as many old ones are there to be replayed. The update is the
product's, with the policy's options that `OPTIONS` names for a model of two layers. They are of some thirty that were tried
on training queries that the model wasn't taught and nobody asked (`--validate`).
Answers are short, so that a beta of 0.1 would lower what was complained of without end; praised and preferred answers are
imitated in the same steps; what is held, and what is too surprising to be learned, keeps false corrections from teaching;
going only a part of the way keeps what nobody asked about, which no record replays. The line `praise` makes no claim: it
is the thumbs again with KTO switched off, so that praised answers are imitated and complaints are left unread.
A claim is about all seeds together, by a 95 % interval over seeds and test queries (`pooled`): the lower bound of the gain
on the rated domain is above 0, the upper bound of the loss on the others together is within the regression gate's margin.
Six seeds say little of how updates differ: so the table has the worst one, too, and what its own queries prove of it.
There were three, which proved in two runs that pairs gain and did not in a third; `dpo_beta` was looked at again then (0.5
instead of 1), on training queries and four seeds, where all of nine recipes gained 3.1 to 3.5 points: it hardly matters.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.benchmarks import _signals as users  # first: it sets the environment that transformers reads

# isort: split
import numpy as np

from policies.gates import regression
from policies.stats import paired_difference
from tests.benchmarks import _banking77 as bank
from tests.benchmarks import common
from tests.benchmarks._lasting import tell
from tests.benchmarks._signals import PRAISE, RATED, SIGNALS, Plan

# Corrections are imitated alone, as was tried: the pairs that they make besides are fewer than `dpo_minimum`.
OPTIONS = {
    **{"sft_lr": 1e-3, "sft_hold": 0.5, "sft_mask": 100.0, "mixed": True, "merge": 0.8, "threads": 1, "save_steps": 0},
    **{"dpo_minimum": 260, "dpo_share": 0.3, "dpo_beta": 0.5, "kto_share": 0.3, "kto_beta": 1.0},
}
FULL = Plan(OPTIONS)
QUICK = Plan({**OPTIONS, "batch": 8}, records=200)  # as many steps of fewer examples
ABOVE = 0.01  # points: a gain that is above 0
MARGIN = 100 * regression.Options().margin
ERROR, DRAWS = 0.05, 10_000  # two-sided, of every interval

PARTS = {"gain": [RATED], "elsewhere": [domain for domain in range(RATED + 1) if domain != RATED]}

Marks = Mapping[int, Sequence[float]]


def main() -> int:
    """Run it; 0 when every claim holds."""
    parser = argparse.ArgumentParser(prog="signals", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--quick", action="store_true", help="one seed, 200 records of a signal: too few to prove a gain"
    )
    parser.add_argument("--validate", action="store_true", help="test on training queries: to choose recipes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--workers", type=int, default=2, help="processes at once")
    given = parser.parse_args()
    if not bank.FOLDER.is_dir():
        sys.stderr.write(f"{bank.FOLDER} is not there: put banking77's train.csv, test.csv and categories.json there\n")
        return 69
    seeds = given.seeds[:1] if given.quick else given.seeds
    plan = replace(QUICK if given.quick else FULL, validate=given.validate)
    began, runs = perf_counter(), []
    with (
        tempfile.TemporaryDirectory(prefix="learnd-signals-") as folder,
        ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool,
    ):
        asked = [pool.submit(users.course, plan, seed, Path(folder) / str(seed)) for seed in seeds]
        for seed, one in zip(seeds, asked, strict=True):
            runs.append(one.result())
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
    """One update against its champion, in points, by the interval that the gates of improvement and regression take."""
    before, after = run["before"], run[signal]["right"]
    return {
        "seed": run["seed"],
        "before": 100 * _mean(before[RATED]),
        "after": 100 * _mean(after[RATED]),
        **{name: _interval(before, after, domains) for name, domains in PARTS.items()},
        "domains": {bank.NAMES[domain]: 100 * (_mean(after[domain]) - _mean(before[domain])) for domain in before},
    }


def _interval(before: Marks, after: Marks, domains: Sequence[int]) -> list[float]:
    """[value, low, high] of one seed's gain on some domains together, in points."""
    first, second = ([mark for domain in domains for mark in marks[domain]] for marks in (after, before))
    low, high = paired_difference(first, second, ERROR)
    return [100 * (_mean(first) - _mean(second)), 100 * low, 100 * high]


def pooled(gains: Sequence[Sequence[float]], *, draws: int = DRAWS) -> list[float]:
    """[mean, low, high] of (seeds, queries) gains, over seeds and queries: both are drawn anew, the same queries for all
    seeds, since they were asked the same.

    The pigeonhole bootstrap, Owen 2007 (Annals of Applied Statistics 1(2)): what a seed and a query have in common with
    no other counts thrice, so that it errs towards the wider.
    """
    table, chance = np.asarray(gains, dtype=float), np.random.default_rng(0)
    shares = [chance.multinomial(size, [1 / size] * size, draws) / size for size in table.shape]
    found = ((shares[0] @ table) * shares[1]).sum(axis=1)
    return [float(value) for value in (table.mean(), *np.quantile(found, [ERROR / 2, 1 - ERROR / 2]))]


def _gains(run: Mapping[str, Any], signal: str, domains: Sequence[int]) -> list[float]:
    """What every query of some domains gained, in points."""
    before, after = run["before"], run[signal]["right"]
    return [100 * (new - old) for domain in domains for new, old in zip(after[domain], before[domain], strict=True)]


def table(runs: Sequence[Mapping[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """A line a signal: means over the seeds, and their pooled intervals; `worth`: points gained on the rated domain by 100
    new records, about whatever they are; `worst`: of the seeds; `seeds`: what each was judged to be.
    """
    rows = []
    for name in (*SIGNALS, PRAISE):
        judged = [judge(run, name) for run in runs]
        means = {key: round(_mean([one[key] for one in judged]), 2) for key in ("before", "after")}
        spans = {key: _rounded(pooled([_gains(run, name, some) for run in runs])) for key, some in PARTS.items()}
        worst = {key: _rounded(min((one[key] for one in judged), key=lambda span: span[0])) for key in PARTS}
        worth = round(100 * spans["gain"][0] / plan.records, 2)
        rows.append({"signal": name, **means, **spans, "worth": worth, "worst": worst, "seeds": judged})
    return rows


def _rounded(figures: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in figures]


def claimed(rows: Sequence[Mapping[str, Any]]) -> list[common.Claim]:
    """What all seeds prove of each signal as the product learns from it, in points."""
    rows = [row for row in rows if row["signal"] != PRAISE]
    gains = [common.Claim(f"{row['signal']}_gain", row["gain"][1], ABOVE) for row in rows]
    losses = [
        common.Claim(f"{row['signal']}_loss_elsewhere", -row["elsewhere"][1], MARGIN, least=False) for row in rows
    ]
    return gains + losses


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, for a person: over all seeds, and the worst seed of each column."""
    lines = [f"{'signal':20}{'before':>8}{'after':>8}{'gain':>24}{'elsewhere':>24}{'gain a 100 records':>20}"]
    for row in rows:
        lines += [
            f"{row['signal']:20}{row['before']:8.1f}{row['after']:8.1f}{_spans(row)}{row['worth']:+20.2f}",
            f"{'  the worst seed':36}{_spans(row['worst'])}",
        ]
    return "\n".join(lines)


def _spans(row: Mapping[str, Any]) -> str:
    return "".join(f"{'{:+.1f} [{:+.1f}, {:+.1f}]'.format(*row[key]):>24}" for key in PARTS)


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
