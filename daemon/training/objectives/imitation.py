"""Imitation beside a comparison: a praised or preferred answer becomes likelier in itself, not only than it was.

Called by `kto` and `dpo`, and by `stages`; answers that are there to be imitated alone are `sft`'s. A comparison hardly
moves an answer that has gained on its reference, and may lower both sides of a pair. Pang et al. 2024 (arXiv 2404.19733),
equation 2.
"""

from collections.abc import Sequence

import torch


def loss(nats: torch.Tensor, shares: torch.Tensor, *, strength: float) -> torch.Tensor:
    """Strength x the sum of share x nats: (answers,) nats of whole answers, (answers,) `shares` -> scalar."""
    return strength * (shares * nats).sum()


def shares(weights: Sequence[float], sizes: Sequence[int], liked: Sequence[bool]) -> list[float]:
    """What makes the mean over all rows one over the tokens of liked answers, as `sft` takes it: 0 for the others, which
    are in the divisor all the same. Weights of rows, tokens of their answers, which are liked (none: all 0).
    """
    tokens = sum(weight * size for weight, size, yes in zip(weights, sizes, liked, strict=True) if yes)
    return [weight * sum(weights) / tokens if yes else 0.0 for weight, yes in zip(weights, liked, strict=True)]
