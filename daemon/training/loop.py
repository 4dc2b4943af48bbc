"""A small training loop for full weights: AdamW, warm-up and cosine, length buckets, checkpoints that continue exactly.

Owns: the order of batches, the optimiser, what is kept of a run. Refuses to know losses (a function is passed in) and
jobs. Called by `distill`. Loshchilov and Hutter 2019 (arXiv 1711.05101).
"""

import math
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from daemon.jobs import read_json, write_json
from daemon.training.meter import Meter
from policies.errors import Refused

Loss = Callable[[Any, Sequence[int]], torch.Tensor]  # the model and row numbers -> the rows' summed loss in nats
HALVINGS = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """`warmup`: share of the steps; the rate falls to a tenth by a cosine. `save_steps`: 0 keeps no checkpoint."""

    lr: float
    warmup: float
    weight_decay: float
    save_steps: int
    seed: int


@dataclass(slots=True)
class Fitted:
    """What a run came to; losses are nats an answer token, of the first and the last steps (5 % of them, at most 20)."""

    steps: int = 0
    loss_first: float | None = None
    loss_last: float | None = None
    resumed: bool = False


def order(lengths: Sequence[int], batch: int, epochs: float, steps: int, seed: int) -> list[list[int]]:
    """Row numbers of every step: shuffled epochs, rows of like length together; `steps` overrides `epochs`.

    Rows are sorted within chunks of 16 batches, so that padding is small and the order still random.
    """
    chance, made = random.Random(seed), list[list[int]]()
    wanted = steps or max(1, round(len(lengths) * epochs / batch))
    while len(made) < wanted:
        rows = list(range(len(lengths)))
        chance.shuffle(rows)
        epoch = []
        for start in range(0, len(rows), 16 * batch):
            chunk = sorted(rows[start : start + 16 * batch], key=lambda row: lengths[row])
            epoch += [chunk[first : first + batch] for first in range(0, len(chunk), batch)]
        chance.shuffle(epoch)
        made += epoch
    return made[:wanted]


def fit(
    model: Any,
    steps: Sequence[Sequence[int]],
    loss: Loss,
    sizes: Sequence[int],
    lengths: Sequence[int],
    settings: Settings,
    folder: Path,
    meter: Meter,
) -> Fitted:
    """Train `model` in place over `steps` of row numbers; `sizes` are the answer tokens of a row, `lengths` all of its.

    Continues from the newest checkpoint in `folder`, with the same bits as a run that was never stopped (one thread).
    Raises: Refused, when the loss is not finite or a GPU has no room for a quarter of a batch.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay, betas=(0.9, 0.98))
    done, losses = _resume(model, optimiser, folder)
    fitted = Fitted(steps=len(steps), resumed=done > 0)
    model.train()
    tokens, parts = 0, 1
    for number in range(done, len(steps)):
        torch.manual_seed(settings.seed + number)  # dropout, if any, is a matter of the step alone
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * rate(number, len(steps), settings.warmup)
        value, parts = _step(model, optimiser, steps[number], loss, sizes, parts)
        if not math.isfinite(value):
            raise Refused(f"the loss became {value} at step {number + 1}", hint="lower the learning rate")
        losses.append(value)
        tokens += sum(lengths[row] for row in steps[number])
        meter.tell(number + 1, len(steps), tokens=tokens, loss=value)
        if settings.save_steps and (number + 1) % settings.save_steps == 0 and number + 1 < len(steps):
            _save(model, optimiser, folder, number + 1, losses)
    some = max(1, min(20, len(losses) // 20))
    fitted.loss_first, fitted.loss_last = sum(losses[:some]) / some, sum(losses[-some:]) / some
    return fitted


def rate(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate at a step: linear up, then a cosine from 1 to 0.1."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _step(
    model: Any, optimiser: torch.optim.Optimizer, rows: Sequence[int], loss: Loss, sizes: Sequence[int], parts: int
) -> tuple[float, int]:
    """One update, in `parts` where a GPU has no room for the whole: (mean loss, the parts that worked)."""
    count = max(1, sum(sizes[row] for row in rows))
    device = next(model.parameters()).device
    cast: Any = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    while True:
        optimiser.zero_grad(set_to_none=True)
        try:
            total = 0.0
            for part in range(parts):
                some = rows[part::parts]
                if not some:
                    continue
                with cast:
                    value = loss(model, some) / count
                torch.autograd.backward(value)
                total += float(value.detach())
            break
        except torch.cuda.OutOfMemoryError as problem:
            torch.cuda.empty_cache()
            parts *= 2
            if parts > 2**HALVINGS:
                hint = "lower batch or max_length, or take a larger GPU"
                raise Refused(
                    f"out of GPU memory, even a quarter of {len(rows)} examples at once", hint=hint
                ) from problem
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return total, parts


def _save(model: Any, optimiser: torch.optim.Optimizer, folder: Path, step: int, losses: list[float]) -> None:
    """Keep weights, moments and losses; the checkpoint before is dropped only when this one is whole."""
    draft = folder / f".step-{step}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, draft / "weights.safetensors")
    state = optimiser.state_dict()["state"]
    moments = {f"{index}.{key}": value for index, slot in state.items() for key, value in slot.items()}
    save_file(moments, draft / "moments.safetensors")
    write_json(draft / "state.json", {"step": step, "losses": losses})
    draft.rename(folder / f"step-{step}")
    for other in folder.glob("step-*"):
        if other.name != f"step-{step}":
            shutil.rmtree(other)


def _resume(model: Any, optimiser: torch.optim.Optimizer, folder: Path) -> tuple[int, list[float]]:
    """Load the newest checkpoint: (steps done, losses so far), (0, []) where there is none."""
    found = sorted(folder.glob("step-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    state = read_json(found[-1] / "state.json") if found else None
    if state is None:
        return 0, []
    weights = load_file(found[-1] / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(found[-1] / "moments.safetensors").items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(state["step"]), [float(value) for value in state["losses"]]
