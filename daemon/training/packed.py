"""The engine "packed": our own step on torch and PEFT, for answers to imitate, pairs and ratings.

Owns: what an objective is given to work with, and the order of rows. Refuses to know formulas (`objectives`), adapters and
jobs, and TRL (`stages` is the same on TRL, and what this is tested against). Called by `lora` and `full`.

Every step holds rows of all lengths, drawn at random; ratings are spread so that a step has both labels. Objectives are
stages of their own, or come together in every step (`mixing`). A record's
weight acts in its loss, in every objective.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from daemon.training import loop, mixing, objectives, packing, reference
from daemon.training.layout import Document
from daemon.training.loop import Fitted
from daemon.training.meter import Meter
from daemon.training.packing import Reader
from daemon.training.plan import Plan
from daemon.training.retain import asked, ewc, forgotten, kl, mask, osf
from daemon.training.retain.asked import Counted
from daemon.training.retain.kl import Held
from daemon.training.retain.olora import Apart
from daemon.training.task import Pull, Setting, Task, whole
from daemon.training.tokens import Sample, mixed


def thinned(prompt: list[int], *, share: float, kept: frozenset[int]) -> list[int]:
    """A prompt without that share of its tokens, drawn anew by torch's generator; the template's own (`kept`) stay.

    Word dropout, Iyyer et al. 2015 (ACL P15-1162): few questions, seen often, can't be learned by heart.
    """
    draws = torch.rand(len(prompt)).tolist()
    left = [token for token, draw in zip(prompt, draws, strict=True) if draw >= share or token in kept]
    return left or prompt[-1:]


def paced(name: str, *, second: float) -> float:
    """How fast a parameter learns: `second` for what begins at zero in an adapter, which is what it writes with."""
    return second if "lora_B" in name else 1.0


def fit(model: Any, tokenizer: Any, samples: Sequence[Sample], plan: Plan, folder: Path, meter: Meter) -> Fitted:
    """Train `model` in place on one stage; continues from the newest checkpoint in `folder` with the same bits.

    Raises: Refused, when the loss is not finite or a GPU has no room for a quarter of a micro-batch.
    """
    counted = Counted(packing.reader(model, tokenizer.pad_token_id))
    samples, task = _made(model, tokenizer, counted, samples, plan, folder, meter)
    steps = order([one.label for one in samples], plan)
    lengths = [one.cost for one in samples]
    fitted = _run(model, task, steps, lengths, plan, folder, meter, kept=plan.osf if plan.name == "sft" else 0.0)
    fitted.asked = counted.tokens
    return fitted


def together(
    model: Any,
    tokenizer: Any,
    groups: Mapping[str, Sequence[Sample]],
    plans: Mapping[str, Plan],
    shares: Mapping[str, float],
    folder: Path,
    meter: Meter,
) -> Fitted:
    """Train `model` in place on several objectives at once, by name; `shares` sum to 1, pace and batch are those of the
    first plan. It continues like `fit`; the reference of all is the model as it is.

    Raises: as `fit`.
    """
    counted, plan = Counted(packing.reader(model, tokenizer.pad_token_id)), next(iter(plans.values()))
    made = [_made(model, tokenizer, counted, groups[name], plans[name], folder / name, meter) for name in groups]
    weighed = {name: shares[name] for name in groups}
    task = mixing.together([one for _, one in made], list(weighed.values()), model.device)
    steps = mixing.order([[one.label for one in rows] for rows, _ in made], list(weighed.values()), plan)
    lengths = [one.cost for rows, _ in made for one in rows]
    kept = plan.osf if "sft" in groups else 0.0
    fitted = _run(model, task, steps, lengths, plan, folder, meter, kept=kept, shares=weighed)
    fitted.asked = counted.tokens
    return fitted


def _made(
    model: Any,
    tokenizer: Any,
    counted: Counted,
    samples: Sequence[Sample],
    plan: Plan,
    folder: Path,
    meter: Meter,
) -> tuple[Sequence[Sample], Task]:
    """The rows of an objective and its task, the model as it is having been asked what they need; kept in `folder`."""
    opening = replace(meter, title=f"{meter.title}: asking the reference", last=meter.first)

    def ask(documents: Sequence[Document]) -> list[list[float]]:
        with loop.precision(model):
            return reference.ask(model, counted, documents, plan.micro, folder, opening)

    def hold(samples: Sequence[Sample]) -> Held:
        with loop.precision(model):
            return kl.held(model, counted, samples, plan.hold, folder, opening)

    pulls: tuple[Pull, ...] = ()
    if plan.name == "sft":
        with loop.precision(model):
            samples, pulls = _retained(model, counted, samples, plan, folder)
    thin = partial(thinned, share=plan.drop, kept=frozenset(tokenizer.added_tokens_decoder)) if plan.drop else whole
    setting = Setting(plan, counted.read, ask, model.device, thin, hold if plan.hold else None, pulls)
    return samples, objectives.load(plan.name).task(samples, setting)


def _run(
    model: Any,
    task: Task,
    steps: Sequence[Sequence[int]],
    lengths: Sequence[int],
    plan: Plan,
    folder: Path,
    meter: Meter,
    *,
    kept: float,
    shares: Mapping[str, float] | None = None,
) -> Fitted:
    """Train over `steps`; `kept`: share of each layer's dominant directions that stay."""
    settings = loop.Settings(
        plan.lr,
        plan.warmup,
        plan.weight_decay,
        plan.save_steps,
        plan.seed,
        schedule=plan.schedule,
        floor=0.0,
        betas=(0.9, 0.999),
        micro=plan.micro,
        pace=partial(paced, second=plan.second) if plan.second != 1 else None,
    )
    back = osf.keeper(model, kept) if kept else Apart(plan.older, plan.olora).keeper(model) if plan.older else None

    def before(model: Any, rows: Sequence[int]) -> None:
        if back:
            back()
        if task.before is not None:
            task.before(model, rows)

    fitted = loop.fit(model, steps, task.loss, task.sizes, lengths, settings, folder, meter, before, shares)
    if back:
        back()
    return fitted


def _retained(
    model: Any, read: Reader, samples: Sequence[Sample], plan: Plan, folder: Path
) -> tuple[Sequence[Sample], tuple[Pull, ...]]:
    """The answers to imitate that are left to learn from, and what holds the weights: both by the model as it is."""
    anchor = ewc.anchor(model, read, samples, plan.ewc, folder) if plan.ewc else None
    if plan.mask or plan.forgotten < 1:
        told = asked.surprises(model, read, samples, folder)
        masked = mask.hidden(samples, told, plan.mask) if plan.mask else samples
        samples = forgotten.first(masked, told, plan.forgotten)
    pulls = (anchor.cost,) if anchor else ()
    return samples, (*pulls, Apart(plan.older, plan.olora).cost) if plan.older else pulls


def order(labels: Sequence[bool], plan: Plan) -> list[list[int]]:
    """Row numbers of every step: shuffled epochs, both labels spread evenly, cut into steps of nearly equal size."""
    chance, made = random.Random(plan.seed), list[list[int]]()
    count = -(-len(labels) // plan.batch)
    wanted = max(1, math.ceil(plan.epochs * count))
    while len(made) < wanted:
        rows = mixed(labels, chance)
        cuts = [round(number * len(rows) / count) for number in range(count + 1)]
        made += [rows[first:last] for first, last in pairwise(cuts)]
    return made[:wanted]
