"""Ratings: praised answers gain on the reference, rejected ones lose, each measured from a common zero.

Called by `daemon.training.packed`. Ethayarajh et al. 2024 (arXiv 2402.01306), equations 7 and 8.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from daemon.training import reference
from daemon.training.objectives import imitation
from daemon.training.packing import Document
from daemon.training.task import Setting, Task
from daemon.training.tokens import Sample, partners


def zero(gains: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The point from which gains are judged: KL(policy || reference) estimated on answers to other prompts, at least 0.

    (rows,) gains in nats of the mismatched answers, (rows,) weights -> scalar.
    """
    return ((gains * weights).sum() / weights.sum()).clamp(min=0).detach()


def loss(
    gains: torch.Tensor, liked: torch.Tensor, weights: torch.Tensor, origin: torch.Tensor, *, beta: float
) -> torch.Tensor:
    """Sum over ratings of weight x loss: (rows,) gains of the rated answers over the reference in nats, (rows,) which
    were praised, (rows,) weights, the scalar `zero` -> scalar.
    """
    sign = torch.where(liked, 1.0, -1.0)
    return ((1 - torch.sigmoid(beta * sign * (gains - origin))) * weights).sum()


def balanced(weights: Sequence[float], liked: Sequence[bool], replayed: Sequence[bool]) -> list[float]:
    """The weights with the lighter label's raised until both weigh the same, within new and within replayed ratings: else
    old praise would raise the complaints about something new above its praise. Where one of the two has but one label,
    it is done over all together.
    """
    rows = [*zip(weights, liked, replayed, strict=True)]
    apart = all(
        len({yes for yes, mine in zip(liked, replayed, strict=True) if mine is old}) != 1 for old in (True, False)
    )
    sums: dict[tuple[bool, bool], float] = defaultdict(float)
    for weight, yes, old in rows:
        sums[yes, old and apart] += weight
    return [weight * max(1.0, sums[not yes, old and apart] / sums[yes, old and apart]) for weight, yes, old in rows]


def task(samples: Sequence[Sample], setting: Setting) -> Task:
    """Ratings, divided by their number; the zero is estimated once a step, on all of its rows."""
    others = partners(samples)
    documents: list[Document] = [(one.prompt, [one.answer]) for one in samples]
    mismatched: list[Document] = [(one.prompt, [other]) for one, other in zip(samples, others, strict=True)]
    both: list[Document] = [(one.prompt, [one.answer, other]) for one, other in zip(samples, others, strict=True)]
    known = torch.tensor(setting.ask(both), device=setting.device)
    liked = torch.tensor([one.label for one in samples], device=setting.device)
    plain = torch.tensor([one.weight for one in samples], device=setting.device)
    weights = torch.tensor(
        balanced([one.weight for one in samples], [one.label for one in samples], [one.replayed for one in samples]),
        device=setting.device,
    )
    praise = torch.tensor(
        imitation.shares(
            [one.weight for one in samples], [len(one.answer) for one in samples], [one.label for one in samples]
        ),
        device=setting.device,
    )
    origin = torch.zeros((), device=setting.device)

    def before(model: Any, rows: Sequence[int]) -> None:
        micro = setting.plan.micro
        nats = [
            value
            for start in range(0, len(rows), micro)
            for value in reference.totals(model, setting.read, [mismatched[row] for row in rows[start : start + micro]])
        ]
        origin.copy_(zero(known[rows, 1] - torch.tensor(nats, device=setting.device), plain[rows]))

    def summed(model: Any, rows: Sequence[int]) -> torch.Tensor:
        some = [documents[row] for row in rows]
        nats = reference.summed(setting.read(model, some), some)
        judged = loss(known[rows, 0] - nats, liked[rows], weights[rows], origin, beta=setting.plan.beta)
        return judged + imitation.loss(nats, praise[rows], strength=setting.plan.imitate)

    return Task(summed, [1] * len(samples), before)
