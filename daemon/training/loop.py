"""A small training loop: AdamW, warm-up and a schedule, micro-batches, checkpoints that continue exactly.

Owns: the order of batches, the optimiser, what is kept of a run. Refuses to know losses (a function is passed in) and
jobs. Called by `distill` (full weights) and `packed` (adapters). Loshchilov and Hutter 2019 (arXiv 1711.05101).
"""

import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from daemon.jobs import read_json, write_json
from daemon.training.meter import Meter
from policies.errors import Refused

# The model and row numbers -> the rows' summed loss in nats: one number, or a vector of what several objectives add.
Loss = Callable[[Any, Sequence[int]], torch.Tensor]
HALVINGS = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """`warmup`: share of the steps, or steps from 1 on; then the rate falls to `floor` of `lr` by a "cosine" or
    "linear", or stays ("constant"). `save_steps`: 0 keeps no checkpoint. `micro`: rows at once (0: all of a step's).
    `pace`: how many times the rate a parameter of this name learns with (None: all alike).
    """

    lr: float
    warmup: float
    weight_decay: float
    save_steps: int
    seed: int
    schedule: str = "cosine"
    floor: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    micro: int = 0
    pace: Callable[[str], float] | None = None


@dataclass(slots=True)
class Fitted:
    """What a run came to; losses are means over what `sizes` counts, of the first and the last steps (5 %, at most 20).

    `tokens`: read to learn from, over all steps. `asked`: read before the first step, to know where the model stands.
    `objectives`: by name the share, and the first and last loss, of each that the steps held together (else none).
    """

    steps: int = 0
    tokens: int = 0
    asked: int = 0
    loss_first: float | None = None
    loss_last: float | None = None
    resumed: bool = False
    objectives: dict[str, dict[str, float]] = field(default_factory=dict)


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
    before: Callable[[Any, Sequence[int]], None] | None = None,
    shares: Mapping[str, float] | None = None,
) -> Fitted:
    """Train `model` in place over `steps` of row numbers; `sizes` are what a row adds to its step's divisor (its answer
    tokens, or 1), `lengths` all tokens that it reads. `before` is called once a step with all of its rows, no gradient
    kept. `shares`: the names of a vector's numbers, and what each objective's own loss was weighed with.

    Continues from the newest checkpoint in `folder`, with the same bits as a run that was never stopped (one thread).
    Raises: Refused, when the loss is not finite or a GPU has no room for a quarter of a micro-batch.
    """
    optimiser = torch.optim.AdamW(
        _groups(model, settings), settings.lr, settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    done, losses = _resume(model, optimiser, folder)
    fitted = Fitted(len(steps), sum(lengths[row] for rows in steps for row in rows), resumed=done > 0)
    model.train()
    tokens, halved = 0, 0
    for number in range(done, len(steps)):
        torch.manual_seed(settings.seed + number)  # dropout, if any, is a matter of the step alone
        for group in optimiser.param_groups:
            group["lr"] = group["pace"] * settings.lr * rate(number, len(steps), settings)
        rows, micro = steps[number], settings.micro or len(steps[number])
        if before is not None:
            with torch.no_grad(), precision(model):
                before(model, rows)
        parts, halved = _step(
            model, optimiser, rows, partial(loss, model), sum(sizes[row] for row in rows), micro, halved
        )
        value = sum(parts)
        if not math.isfinite(value):
            raise Refused(f"the loss became {value} at step {number + 1}", hint="lower the learning rate")
        losses.append(parts)
        tokens += sum(lengths[row] for row in steps[number])
        meter.tell(number + 1, len(steps), tokens=tokens, loss=value, parts=_own(parts, shares))
        if settings.save_steps and (number + 1) % settings.save_steps == 0 and number + 1 < len(steps):
            _save(model, optimiser, folder, number + 1, losses)
    _summed_up(fitted, losses, shares or {})
    return fitted


def _groups(model: Any, settings: Settings) -> list[dict[str, Any]]:
    """The trained parameters by their pace; one group where all have one."""
    found: dict[float, list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(settings.pace(name) if settings.pace else 1.0, []).append(parameter)
    return [{"params": some, "pace": pace} for pace, some in found.items()]


def _own(parts: Sequence[float], shares: Mapping[str, float] | None) -> dict[str, float]:
    """Each objective's own loss, its share taken out again."""
    return {name: part / share for (name, share), part in zip((shares or {}).items(), parts, strict=False)}


def _summed_up(fitted: Fitted, losses: Sequence[Sequence[float]], shares: Mapping[str, float]) -> None:
    """Note the means of the first and the last steps: of all that was lost, and of each objective."""
    some = max(1, min(20, len(losses) // 20))
    totals = [sum(parts) for parts in losses]
    fitted.loss_first, fitted.loss_last = sum(totals[:some]) / some, sum(totals[-some:]) / some
    for name, share in shares.items():
        own = [_own(parts, shares)[name] for parts in losses]
        first, last = sum(own[:some]) / some, sum(own[-some:]) / some
        fitted.objectives[name] = {"share": share, "loss_first": first, "loss_last": last}


def rate(step: int, steps: int, settings: Settings) -> float:
    """The share of the learning rate at a step: linear up, then down from 1 by the schedule."""
    rise = max(1, round(steps * settings.warmup if settings.warmup < 1 else settings.warmup))
    if step < rise:
        return (step + 1) / rise
    gone = (step - rise) / max(1, steps - rise)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * gone)), "linear": 1 - gone, "constant": 1.0}[settings.schedule]
    return settings.floor + (1 - settings.floor) * left


def precision(model: Any) -> Any:
    """The context that a model is computed in: bfloat16 on a GPU, as it is on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if model.device.type == "cuda" else nullcontext()


def _step(
    model: Any,
    optimiser: torch.optim.Optimizer,
    rows: Sequence[int],
    loss: Callable[[Sequence[int]], torch.Tensor],
    count: int,
    micro: int,
    halved: int,
) -> tuple[list[float], int]:
    """One update, at most `micro` rows at once, halved where a GPU has no room: (mean loss, in the parts that it comes in,
    how often it was halved).
    """
    while True:
        parts = -(-len(rows) // micro) << halved
        optimiser.zero_grad(set_to_none=True)
        try:
            groups = [rows[part::parts] for part in range(parts) if rows[part::parts]]
            found = [_backward(model, loss, group, max(1, count)) for group in groups]
            break
        except torch.cuda.OutOfMemoryError as problem:
            torch.cuda.empty_cache()
            if halved == HALVINGS:
                hint = "lower batch, micro_batch or max_length, set quantisation = nf4, or take a larger GPU"
                least = -(-len(rows) // parts)
                raise Refused(f"out of GPU memory, even {least} examples at once", hint=hint) from problem
            halved += 1
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return [sum(column) for column in zip(*found, strict=True)], halved


def _backward(
    model: Any, loss: Callable[[Sequence[int]], torch.Tensor], rows: Sequence[int], count: int
) -> list[float]:
    """Add the gradient of some rows: their share of the step's mean loss."""
    with precision(model):
        value = loss(rows) / count
    torch.autograd.backward(value.sum())
    return [float(part) for part in value.detach().reshape(-1)]


def _save(model: Any, optimiser: torch.optim.Optimizer, folder: Path, step: int, losses: list[list[float]]) -> None:
    """Keep trained weights, moments and losses; the checkpoint before is dropped only when this one is whole."""
    draft = folder / f".step-{step}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, draft / "weights.safetensors")
    state = optimiser.state_dict()["state"]
    moments = {f"{index}.{key}": value for index, slot in state.items() for key, value in slot.items()}
    save_file(moments, draft / "moments.safetensors")
    write_json(draft / "state.json", {"step": step, "losses": losses})
    draft.rename(folder / f"step-{step}")
    for other in folder.glob("step-*"):
        if other.name != f"step-{step}":
            shutil.rmtree(other)


def _resume(model: Any, optimiser: torch.optim.Optimizer, folder: Path) -> tuple[int, list[list[float]]]:
    """Load the newest checkpoint: (steps done, losses so far), (0, []) where there is none."""
    found = sorted(folder.glob("step-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    state = read_json(found[-1] / "state.json") if found else None
    if state is None:
        return 0, []
    weights = load_file(found[-1] / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(found[-1] / "moments.safetensors").items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    losses = [parts if isinstance(parts, list) else [parts] for parts in state["losses"]]  # an older release kept one
    return int(state["step"]), losses
