"""The engine "packed": our own step on torch and PEFT, for answers to imitate, pairs and ratings.

Owns: which documents an objective reads, what is asked of the reference, and the order of rows. Refuses to know
adapters and jobs, and TRL (`stages` is the same on TRL, and what this is tested against). Called by `lora`.

Every step holds rows of all lengths, drawn at random; ratings are spread so that a step has both labels. A record's
weight acts in its loss, in every objective.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from daemon.training import loop, packing, reference
from daemon.training.loop import Fitted, Loss
from daemon.training.meter import Meter
from daemon.training.objectives import dpo, kto, sft
from daemon.training.packing import Document, Reader
from daemon.training.plan import Plan
from daemon.training.retain import asked, ewc, forgotten, kl, mask, osf
from daemon.training.retain.asked import Counted
from daemon.training.retain.ewc import Anchor
from daemon.training.retain.kl import Held
from daemon.training.tokens import Sample, mixed, partners

Thin = Callable[[list[int]], list[int]]


def whole(prompt: list[int]) -> list[int]:
    """All of a prompt."""
    return prompt


@dataclass(frozen=True, slots=True)
class Task:
    """What the loop needs to know of an objective: `sizes` are what a row adds to the step's divisor."""

    loss: Loss
    sizes: Sequence[int]
    before: Callable[[Any, Sequence[int]], None] | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What all objectives are made of: `ask` returns the reference's nats of every answer, `thin` what a prompt shows,
    `hold` what the champion thinks of answers to imitate (None: they aren't held to it), `anchor` what it costs to move
    weights that old answers need.
    """

    plan: Plan
    read: Reader
    ask: Callable[[Sequence[Document]], list[list[float]]]
    device: torch.device
    thin: Thin = whole
    hold: Callable[[Sequence[Sample]], Held] | None = None
    anchor: Anchor | None = None


def thinned(prompt: list[int], *, share: float, kept: frozenset[int]) -> list[int]:
    """A prompt without that share of its tokens, drawn anew by torch's generator; the template's own (`kept`) stay.

    Word dropout, Iyyer et al. 2015 (ACL P15-1162): few questions, seen often, can't be learned by heart.
    """
    draws = torch.rand(len(prompt)).tolist()
    left = [token for token, draw in zip(prompt, draws, strict=True) if draw >= share or token in kept]
    return left or prompt[-1:]


def fit(model: Any, tokenizer: Any, samples: Sequence[Sample], plan: Plan, folder: Path, meter: Meter) -> Fitted:
    """Train `model` in place on one stage; continues from the newest checkpoint in `folder` with the same bits.

    Raises: Refused, when the loss is not finite or a GPU has no room for a quarter of a micro-batch.
    """
    read = packing.reader(model, tokenizer.pad_token_id)
    counted = Counted(read)
    opening = replace(meter, title=f"{meter.title}: asking the reference", last=meter.first)

    def ask(documents: Sequence[Document]) -> list[list[float]]:
        with loop.precision(model):
            return reference.ask(model, counted, documents, plan.micro, folder, opening)

    def hold(samples: Sequence[Sample]) -> Held:
        with loop.precision(model):
            return kl.held(model, counted, samples, plan.hold, folder, opening)

    anchor = None
    if plan.name == "sft":
        with loop.precision(model):
            samples, anchor = _retained(model, counted, samples, plan, folder)
    thin = partial(thinned, share=plan.drop, kept=frozenset(tokenizer.added_tokens_decoder)) if plan.drop else whole
    setting = Setting(plan, read, ask, model.device, thin, hold if plan.hold else None, anchor)
    task = {"sft": imitation, "dpo": preference, "kto": rating}[plan.name](samples, setting)
    steps = order([one.label for one in samples], plan)
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
    )
    lengths = [one.cost for one in samples]
    back = osf.keeper(model, plan.osf) if plan.osf and plan.name == "sft" else None
    before = (lambda *_: back()) if back else task.before
    fitted = loop.fit(model, steps, task.loss, task.sizes, lengths, settings, folder, meter, before)
    if back:
        back()
    fitted.asked = counted.tokens
    return fitted


def _retained(
    model: Any, read: Reader, samples: Sequence[Sample], plan: Plan, folder: Path
) -> tuple[Sequence[Sample], Anchor | None]:
    """The answers to imitate that are left to learn from, and what holds the weights: both by the model as it is."""
    anchor = ewc.anchor(model, read, samples, plan.ewc, folder) if plan.ewc else None
    if plan.mask or plan.forgotten < 1:
        told = asked.surprises(model, read, samples, folder)
        masked = mask.hidden(samples, told, plan.mask) if plan.mask else samples
        samples = forgotten.first(masked, told, plan.forgotten)
    return samples, anchor


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


def imitation(samples: Sequence[Sample], setting: Setting) -> Task:
    """Answers to imitate, divided by the step's answer tokens."""
    held = setting.hold(samples) if setting.hold else None
    sizes = [len(one.answer) for one in samples]
    loss = imitated(samples, setting.read, setting.thin, held)
    return Task(anchored(loss, setting.anchor, sizes) if setting.anchor else loss, sizes)


def anchored(loss: Loss, anchor: Anchor, sizes: Sequence[int]) -> Loss:
    """The loss and, a token alike, what it costs to move the weights; `sizes` are what the loop divides a step by."""

    def held(model: Any, rows: Sequence[int]) -> torch.Tensor:
        return loss(model, rows) + anchor.cost(model) * sum(sizes[row] for row in rows)

    return held


def imitated(samples: Sequence[Sample], read: Reader, thin: Thin = whole, held: Held | None = None) -> Loss:
    """The summed loss of imitation alone: what a teacher is tuned with, too."""

    def loss(model: Any, rows: Sequence[int]) -> torch.Tensor:
        some = [samples[row] for row in rows]
        cost = held.cost(rows) if held else packing.nats
        nats = read(model, [(thin(one.prompt), [one.answer]) for one in some], cost)
        weights = torch.tensor(
            [one.weight * share for one in some for share in one.emphasis or [1.0] * len(one.answer)],
            device=nats.device,
        )
        return sft.loss(nats, weights)

    return loss


def preference(samples: Sequence[Sample], setting: Setting) -> Task:
    """Pairs, divided by their number; a pair is one document, its prompt read once."""
    documents: list[Document] = [(one.prompt, [one.answer, one.rejected]) for one in samples]
    known = torch.tensor(setting.ask(documents), device=setting.device)
    weights = torch.tensor([one.weight for one in samples], device=setting.device)

    def loss(model: Any, rows: Sequence[int]) -> torch.Tensor:
        some = [documents[row] for row in rows]
        gains = known[rows] - reference.summed(setting.read(model, some), some).view(-1, 2)
        return dpo.loss(gains[:, 0] - gains[:, 1], weights[rows], beta=setting.plan.beta, flipped=setting.plan.robust)

    return Task(loss, [1] * len(samples))


def rating(samples: Sequence[Sample], setting: Setting) -> Task:
    """Ratings, divided by their number; the zero is estimated once a step, on all of its rows."""
    others = partners(samples)
    documents: list[Document] = [(one.prompt, [one.answer]) for one in samples]
    mismatched: list[Document] = [(one.prompt, [other]) for one, other in zip(samples, others, strict=True)]
    both: list[Document] = [(one.prompt, [one.answer, other]) for one, other in zip(samples, others, strict=True)]
    known = torch.tensor(setting.ask(both), device=setting.device)
    liked = torch.tensor([one.label for one in samples], device=setting.device)
    plain = torch.tensor([one.weight for one in samples], device=setting.device)
    weights = torch.tensor(
        kto.balanced([one.weight for one in samples], [one.label for one in samples]), device=setting.device
    )
    origin = torch.zeros((), device=setting.device)

    def before(model: Any, rows: Sequence[int]) -> None:
        micro = setting.plan.micro
        nats = [
            value
            for start in range(0, len(rows), micro)
            for value in reference.totals(model, setting.read, [mismatched[row] for row in rows[start : start + micro]])
        ]
        origin.copy_(kto.zero(known[rows, 1] - torch.tensor(nats, device=setting.device), plain[rows]))

    def loss(model: Any, rows: Sequence[int]) -> torch.Tensor:
        some = [documents[row] for row in rows]
        gains = known[rows, 0] - reference.summed(setting.read(model, some), some)
        return kto.loss(gains, liked[rows], weights[rows], origin, beta=setting.plan.beta)

    return Task(loss, [1] * len(samples), before)
