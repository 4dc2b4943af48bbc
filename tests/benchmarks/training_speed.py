"""How fast a training step is: ours against TRL's trainers as they come, and as their settings make them fastest.

Owns: the race, its arms and claims. Refuses to know whether the gradients are right (`training_equal`). Called as
`python -m tests.benchmarks.training_speed --out FILE [--quick] [--shape medium|large|huge] [--device cpu|gpu]
[--threads N]`.

Counted are real tokens: prompt and answer of every look at a row (a pair is two sequences), no padding. Same model, rows,
effective batch and fresh adapter of rank 16 (one that chance has moved far makes attention so sharp that a core spends a
quarter of its time on denormal numbers, in every arm), one arm after the other on the same cores, over several rounds; the
ratio is the median of the rounds' ratios, against the fastest of the tuned arms in each. The head of the tuned arms is made
to skip prompts and padding (`head_skips`). Ours and TRL's best are timed over three epochs with what they compute
beforehand, in every run anew; TRL as it comes computes nothing beforehand and costs the same every epoch, so it is timed
over one. The limits are those of a CPU; on a GPU the same race runs with `--shape large --device gpu` (1.1B parameters,
`huge` is 8B, in bfloat16), and tells the memory as well. `floor`: the share of what the device could do at best (`_floor`).
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from tests.benchmarks import _floor, common
from tests.benchmarks import _training as shared

# isort: split
import datasets
import torch
import trl.trainer.utils

from daemon.models import Ref
from daemon.training import packed, packing
from daemon.training.meter import Meter
from daemon.training.plan import Plan
from daemon.training.tokens import Sample
from daemon.transformers_model import open_tokenizer

EPOCHS, BATCH, ROUNDS = 3.0, 8, 5


def _accumulated(micro: int) -> dict[str, Any]:
    """The same batch in parts: less padding."""
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": BATCH // micro}


SHAPES = {"medium": shared.MEDIUM, "large": shared.LARGE, "huge": shared.HUGE}
LIMITS = {"vs_trl": {"sft": 4.0, "kto": 5.0, "dpo": 8.0}, "vs_tuned": {"sft": 2.0, "kto": 2.0, "dpo": 2.5}}
BEFOREHAND = {"precompute_ref_log_probs": True}
AS_IT_COMES = {"gradient_checkpointing": True}
BEST: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "sft": {
        "tuned: two of like length at a time": {"train_sampling_strategy": "group_by_length", **_accumulated(2)},
        "tuned: packed": {"packing": True},
    },
    "dpo": {
        "tuned: reference beforehand, one at a time": {**BEFOREHAND, **_accumulated(1)},
        "tuned: the same, two at a time": {**BEFOREHAND, **_accumulated(2)},
    },
    "kto": {
        "tuned: reference beforehand, two at a time": {**BEFOREHAND, **_accumulated(2)},  # fewer at once it refuses
        "tuned: the same, four at a time": {**BEFOREHAND, **_accumulated(4)},
    },
}  # in all of them no recomputation of activations, and a head that skips


def main() -> int:
    """Race; 0 when every claim holds."""
    parser = argparse.ArgumentParser(prog="training_speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one round on fewer rows")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="medium", help="7M, 1.1B or 8B parameters")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    datasets.disable_caching()  # else TRL finds the reference of an arm or round before
    world, peak = SHAPES[given.shape], _floor.peak("cuda" if given.device == "gpu" else "cpu")
    few = 16 if given.quick else 40
    rows = shared.samples(world, few, seed=1)
    raw: dict[str, Any] = {"shape": given.shape, "device": place(given.device), "threads": given.threads}
    raw |= {"flops": peak, "runs": []}
    with tempfile.TemporaryDirectory() as name:
        ref = shared.build(world, Path(name) / "base", seed=1)
        for number in range(1 if given.quick else ROUNDS):
            for objective in shared.OBJECTIVES:
                found = race(ref, objective, rows, given.device, Path(name), number)
                raw["runs"] += [judged(run, world, rows, peak) for run in found]
    claims = claimed(raw["runs"])
    common.write(given.out, name="training_speed", seeds=[1], raw=raw, claims=claims)
    common.picture(given.out, lambda axes: drawn(axes, raw["runs"]))
    sys.stdout.write(common.told(claims) + "\n")
    return 0 if all(claim.holds for claim in claims) else 1


def place(device: str) -> str:
    """What it runs on, in words."""
    return str(torch.cuda.get_device_name()) if device == "gpu" else "cpu"


def race(
    ref: Ref, objective: str, rows: Sequence[Sample], device: str, folder: Path, number: int
) -> list[dict[str, Any]]:
    """One round of an objective: real tokens a second of every arm."""
    arms: dict[str, Mapping[str, Any] | None] = {"ours": None, "trl": AS_IT_COMES, **BEST[objective]}
    found = []
    for arm, settings in arms.items():
        epochs = 1.0 if arm == "trl" else EPOCHS
        warm, at = (folder / f"{objective}-{kind}-{arm}" for kind in ("warm", number))
        with head_skips() if arm.startswith("tuned") else nullcontext():
            if number == 0:
                timed(ref, rows[:2], plan(objective, 1.0, device), settings, device, warm)
            wall, busy = timed(ref, rows, plan(objective, epochs, device), settings, device, at)
        tokens = epochs * sum(one.cost if objective == "dpo" else replace(one, rejected=[]).cost for one in rows)
        run = {"objective": objective, "arm": arm, "round": number, "tokens": tokens, "seconds": wall}
        more = {"epochs": epochs, "cpu_seconds": busy, "memory_gib": memory(device)}
        found.append({**run, "tokens_a_second": tokens / wall, **more})
    return found


def memory(device: str) -> float | None:
    """GiB that tensors took of a GPU at most since the last call; a CPU's aren't counted."""
    if device != "gpu":
        return None
    most = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return most


def judged(run: Mapping[str, Any], world: shared.World, rows: Sequence[Sample], peak: float) -> dict[str, Any]:
    """The run with its share of the floor, told on a line."""
    work = run["epochs"] * _floor.needed(world, rows, pairs=run["objective"] == "dpo")
    share = work / (run["seconds"] * peak)
    taken = "" if run["memory_gib"] is None else f", {run['memory_gib']:.1f} GiB"
    line = f"{run['objective']} {run['round']} {run['arm']}: {run['tokens_a_second']:,.0f} tokens/s{taken}"
    sys.stdout.write(f"{line}, {share:.0%} of the floor\n")
    sys.stdout.flush()
    return {**run, "floor": share}


@contextmanager
def head_skips() -> Iterator[None]:
    """TRL's head scores answer tokens alone: the same losses from fewer logits. By itself it does so only with Triton."""
    theirs: Any = trl.trainer.utils
    before = theirs._use_triton
    theirs._use_triton = lambda _: True
    try:
        yield
    finally:
        theirs._use_triton = before


def plan(objective: str, epochs: float, device: str) -> Plan:
    """The same for every arm."""
    return Plan(
        name=objective, epochs=epochs, lr=1e-4, batch=BATCH, micro=BATCH, warmup=0.0, schedule="cosine", weight_decay=0.0,
        beta=0.1, robust=0.1, save_steps=0, seed=1, gpu=device == "gpu",
    )  # fmt: skip


def timed(
    ref: Ref, rows: Sequence[Sample], plan: Plan, settings: Mapping[str, Any] | None, device: str, folder: Path
) -> tuple[float, float]:
    """(wall, CPU) seconds from a loaded model and token ids to the end of training; `settings` None: ours."""
    if plan.name != "dpo":
        rows = [replace(one, rejected=[]) for one in rows]
    model, tokenizer = shared.fresh(ref, 1, device), open_tokenizer(ref)
    wall, busy = perf_counter(), process_time()
    if settings is None:
        packed.fit(model, tokenizer, rows, plan, folder, Meter(lambda *_: None, plan.name))
        assert model.config._attn_implementation == packing.NAME
    else:
        shared.trainer(model, tokenizer, rows, plan, folder, **fitting(settings, rows, plan)).train()
    return perf_counter() - wall, process_time() - busy


def fitting(settings: Mapping[str, Any], rows: Sequence[Sample], plan: Plan) -> dict[str, Any]:
    """The settings with what packing needs: one row that holds as many tokens as a batch does on average."""
    if not settings.get("packing"):
        return dict(settings)
    longest = max(one.length for one in rows)
    held = max(longest, round(plan.batch * statistics.mean(one.length for one in rows)))
    return {**settings, "max_length": held, "per_device_train_batch_size": 1}


def claimed(runs: Sequence[Mapping[str, Any]]) -> list[common.Claim]:
    """Ours over TRL as it comes, and over the fastest of its tuned arms, round by round."""
    claims = []
    for against, limits in LIMITS.items():
        for objective, limit in limits.items():
            mine = [run for run in runs if run["objective"] == objective]
            ratios = []
            for number in {run["round"] for run in mine}:
                speed = {run["arm"]: run["tokens_a_second"] for run in mine if run["round"] == number}
                tuned = max(value for arm, value in speed.items() if arm.startswith("tuned"))
                ratios.append(speed["ours"] / (speed["trl"] if against == "vs_trl" else tuned))
            claims.append(common.Claim(f"{objective}_{against}", statistics.median(ratios), limit))
    return claims


def drawn(axes: Any, runs: Sequence[Mapping[str, Any]]) -> None:
    """Median tokens a second of every arm."""
    names = list(dict.fromkeys((run["objective"], run["arm"]) for run in runs))
    speeds = [
        statistics.median(run["tokens_a_second"] for run in runs if (run["objective"], run["arm"]) == name)
        for name in names
    ]
    colours = ["tab:blue" if arm == "ours" else "tab:grey" for _, arm in names]
    axes.barh([f"{objective}, {arm}" for objective, arm in names], speeds, color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("real tokens a second")


if __name__ == "__main__":
    sys.exit(main())
