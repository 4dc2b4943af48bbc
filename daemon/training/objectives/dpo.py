"""Preferences: the better answer of a pair gains on the worse one, measured from a frozen reference.

Called by `daemon.training.packed`. Rafailov et al. 2023 (arXiv 2305.18290); robust: Chowdhury et al. 2024 (arXiv
2403.00409).
"""

import torch
from torch.nn.functional import logsigmoid


def loss(margin: torch.Tensor, weights: torch.Tensor, *, beta: float, flipped: float) -> torch.Tensor:
    """Sum over pairs of weight x loss: (pairs,) margins in nats, (pairs,) weights -> scalar.

    `margin`: how much more the policy prefers the chosen answer than the reference does. `flipped` in [0, 0.5): share of
    pairs whose order is taken to be wrong; the estimate stays unbiased (0: plain DPO).
    """
    right, wrong = -logsigmoid(beta * margin), -logsigmoid(-beta * margin)
    return (((1 - flipped) * right - flipped * wrong) / (1 - 2 * flipped) * weights).sum()
