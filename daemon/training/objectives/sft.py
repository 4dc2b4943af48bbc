"""Imitation: cross-entropy on the tokens of recorded answers. Called by `daemon.training.packed`."""

import torch


def loss(nats: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of weight x nats over answer tokens: (tokens,) negative log-likelihoods, (tokens,) weights -> scalar."""
    return (nats * weights).sum()
