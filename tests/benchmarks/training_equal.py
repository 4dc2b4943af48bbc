"""Our training step is the one that it replaces: gradients against TRL's, packing against single documents, weights.

Owns: the comparison and its claims. Refuses to know speed (`training_speed`). Called as
`python -m tests.benchmarks.training_equal --out FILE [--quick]`, and by the tests.

For pairs and ratings both sides begin with the same reference and are then moved from it alike, so that margins and
KTO's zero are not 0.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import _training as shared
from tests.benchmarks import common

# isort: split
import torch
from transformers import TrainerCallback

from daemon.training import objectives, packing, reference
from daemon.training.plan import Plan
from daemon.training.task import Setting
from daemon.training.tokens import Sample, evened, partners
from daemon.transformers_model import open_tokenizer

COSINE, EXACT = 0.999, 1e-5
BETA, FLIPPED = 0.5, 0.1


def main() -> int:
    """Measure over seeds; 0 when every claim holds."""
    parser = argparse.ArgumentParser(prog="training_equal", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one seed and fewer rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [1] if given.quick else [1, 2, 3]
    raw = [measure(seed, 8 if given.quick else 16) for seed in seeds]
    claims = claimed(raw)
    common.write(given.out, name="training_equal", seeds=seeds, raw={"runs": raw}, claims=claims)
    common.picture(given.out, lambda axes: drawn(axes, raw))
    sys.stdout.write(common.told(claims) + "\n")
    return 0 if all(claim.holds for claim in claims) else 1


def measure(seed: int, count: int) -> dict[str, float]:
    """All figures of one seed."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ref = shared.build(shared.SMALL, folder / "base", seed)
        rows = shared.samples(shared.SMALL, count, seed)
        for objective in shared.OBJECTIVES:
            ours = gradient(ref, objective, rows, rows, seed)
            theirs, zero = by_trl(ref, objective, rows, seed, folder / objective)
            found[f"{objective}_cosine"] = float(torch.cosine_similarity(ours.double(), theirs.double(), dim=0))
            found[f"{objective}_norm_ratio"] = float(ours.norm() / theirs.norm())
            if objective == "kto":
                found["kto_zero"] = zero
            heavy = [replace(one, weight=2.0) if place < 3 else one for place, one in enumerate(rows)]
            twice = gradient(ref, objective, [*rows, *rows[:3]], rows, seed)
            off = (gradient(ref, objective, heavy, rows, seed) - twice).norm() / twice.norm()
            found[f"{objective}_weight_two"] = float(off)
        found["packed_apart"] = apart(ref, rows, seed)
    return found


def plan(objective: str, count: int) -> Plan:
    """One step that holds all rows."""
    return Plan(
        name=objective, epochs=1.0, lr=1e-9, batch=count, micro=count, warmup=0.0, schedule="constant",
        weight_decay=0.0, beta=BETA, robust=FLIPPED, save_steps=0, seed=1, gpu=False,
    )  # fmt: skip


def gradient(ref: Any, objective: str, rows: Sequence[Sample], base: Sequence[Sample], seed: int) -> torch.Tensor:
    """The gradient of one step of ours on `rows`, the model moved by `base`."""
    model = shared.model(ref, seed)
    read = packing.reader(model, 0)
    assert read is packing.packed
    rows = evened(rows, [len(one.answer) if objective == "sft" else 1 for one in rows])

    def ask(documents: Any) -> list[list[float]]:
        found = iter(reference.totals(model, read, documents))
        return [[next(found) for _ in answers] for _, answers in documents]

    task = objectives.load(objective).task(rows, Setting(plan(objective, len(rows)), read, ask, model.device))
    move(model, read, base)
    everything = list(range(len(rows)))
    if task.before is not None:
        with torch.no_grad():
            task.before(model, everything)
    (task.loss(model, everything) / sum(task.sizes)).backward()
    return flat(model)


def move(model: Any, read: packing.Reader, rows: Sequence[Sample]) -> None:
    """Step away from the reference, towards the mismatched answers, so that KTO's zero is above 0."""
    trained = [p for n, p in model.named_parameters() if p.requires_grad and ".default" in n]
    nats = read(model, [(one.prompt, [other]) for one, other in zip(rows, partners(rows), strict=True)])
    slopes = torch.autograd.grad(nats.mean(), trained)
    length = torch.sqrt(sum((slope**2).sum() for slope in slopes))
    with torch.no_grad():
        for parameter, slope in zip(trained, slopes, strict=True):
            parameter.sub_(slope / length)


class Catch(TrainerCallback):
    """Keeps the gradient that a trainer is about to step along."""

    def __init__(self) -> None:
        self.found = torch.zeros(0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        """Called after accumulation and clipping (which is off)."""
        self.found = flat(model)


def by_trl(ref: Any, objective: str, rows: Sequence[Sample], seed: int, folder: Path) -> tuple[torch.Tensor, float]:
    """The gradient of one step of TRL's own trainer on the same rows, and its KTO's zero in nats."""
    model = shared.model(ref, seed)
    trainer = shared.trainer(model, open_tokenizer(ref), rows, plan(objective, len(rows)), folder, max_grad_norm=0.0)
    move(trainer.model, partial(packing.padded, pad=0), rows)
    catch = Catch()
    trainer.add_callback(catch)
    trainer.train()
    return catch.found, float(trainer.state.log_history[0].get("kl", 0.0))


def flat(model: Any) -> torch.Tensor:
    """The adapter's gradient, layer after layer."""
    return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if p.requires_grad and ".default" in n])


def apart(ref: Any, rows: Sequence[Sample], seed: int) -> float:
    """The largest difference, in nats a token, between documents packed together and read alone as plain rows."""
    model = shared.model(ref, seed).eval()
    documents = [(one.prompt, [one.answer, one.rejected]) for one in rows]
    with torch.no_grad():
        alone = torch.cat([packing.padded(model, [document], pad=0) for document in documents])
        together = packing.reader(model, 0)(model, documents)
    return float((alone - together).abs().max())


def claimed(raw: Sequence[dict[str, float]]) -> list[common.Claim]:
    """The worst over seeds."""
    worst = [
        common.Claim(f"{name}_gradient_cosine_with_trl", min(run[f"{name}_cosine"] for run in raw), COSINE)
        for name in shared.OBJECTIVES
    ]
    off = max(abs(1 - run[f"{name}_norm_ratio"]) for run in raw for name in shared.OBJECTIVES)
    worst.append(common.Claim("gradient_norm_off_trl", off, 1 - COSINE, least=False))
    exact = ["packed_apart", *(f"{name}_weight_two" for name in shared.OBJECTIVES)]
    return worst + [common.Claim(name, max(run[name] for run in raw), EXACT, least=False) for name in exact]


def drawn(axes: Any, raw: Sequence[dict[str, float]]) -> None:
    """How far from equal each figure is."""
    names = ["packed_apart", *(f"{name}_weight_two" for name in shared.OBJECTIVES)]
    gaps = {name: max(run[name] for run in raw) for name in names}
    gaps |= {f"{name}_cosine": max(1 - run[f"{name}_cosine"] for run in raw) for name in shared.OBJECTIVES}
    axes.barh(list(gaps), [max(1e-12, gap) for gap in gaps.values()])
    axes.set_xscale("log")
    axes.set_xlabel("distance from equal (1 - cosine, or the difference itself)")


if __name__ == "__main__":
    sys.exit(main())
