"""Preferences: the better answer of a pair gains on the worse one, measured from a frozen reference.

Called by `daemon.training.packed`. Rafailov et al. 2023 (arXiv 2305.18290); robust: Chowdhury et al. 2024 (arXiv
2403.00409).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from daemon.training import reference
from daemon.training.layout import Document
from daemon.training.objectives import imitation
from daemon.training.task import Setting, Task
from daemon.training.tokens import Sample


def loss(margin: torch.Tensor, weights: torch.Tensor, *, beta: float, flipped: float) -> torch.Tensor:
    """Sum over pairs of weight x loss: (pairs,) margins in nats, (pairs,) weights -> scalar.

    `margin`: how much more the policy prefers the chosen answer than the reference does. `flipped` in [0, 0.5): share of
    pairs whose order is taken to be wrong; the estimate stays unbiased (0: plain DPO).
    """
    right, wrong = -logsigmoid(beta * margin), -logsigmoid(-beta * margin)
    return (((1 - flipped) * right - flipped * wrong) / (1 - 2 * flipped) * weights).sum()


def task(samples: Sequence[Sample], setting: Setting) -> Task:
    """Pairs, divided by their number; a pair is one document, its prompt read once."""
    documents: list[Document] = [(one.prompt, [one.answer, one.rejected]) for one in samples]
    known = torch.tensor(setting.ask(documents), device=setting.device)
    weights = torch.tensor([one.weight for one in samples], device=setting.device)
    chosen = torch.tensor(
        imitation.shares([one.weight for one in samples], [len(one.answer) for one in samples], [True] * len(samples)),
        device=setting.device,
    )

    def summed(model: Any, rows: Sequence[int]) -> torch.Tensor:
        some = [documents[row] for row in rows]
        nats = reference.summed(setting.read(model, some), some).view(-1, 2)
        gains = known[rows] - nats
        plan = setting.plan
        judged = loss(gains[:, 0] - gains[:, 1], weights[rows], beta=plan.beta, flipped=plan.robust)
        return judged + imitation.loss(nats[:, 0], chosen[rows], strength=plan.imitate)

    return Task(summed, [1] * len(samples))
