"""Ratings: praised answers gain on the reference, rejected ones lose, each measured from a common zero.

Called by `daemon.training.packed`. Ethayarajh et al. 2024 (arXiv 2402.01306), equations 7 and 8.
"""

from collections.abc import Sequence

import torch


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


def balanced(weights: Sequence[float], liked: Sequence[bool]) -> list[float]:
    """The weights with the lighter label's raised until both labels weigh the same."""
    good = sum(weight for weight, yes in zip(weights, liked, strict=True) if yes)
    bad = sum(weights) - good
    factor = {True: max(1.0, bad / good), False: max(1.0, good / bad)} if good and bad else {True: 1.0, False: 1.0}
    return [weight * factor[yes] for weight, yes in zip(weights, liked, strict=True)]
