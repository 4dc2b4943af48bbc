"""Imitation: cross-entropy on the tokens of recorded answers.

Called by `daemon.training.packed`; `imitated` alone by whoever needs no more than the loss (`sizing`, `distill`).
"""

from collections.abc import Sequence
from typing import Any

import torch

from daemon.training import packing
from daemon.training.loop import Loss
from daemon.training.packing import Reader
from daemon.training.retain.ewc import Anchor
from daemon.training.retain.kl import Held
from daemon.training.task import Setting, Task, Thin, whole
from daemon.training.tokens import Sample


def loss(nats: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of weight x nats over answer tokens: (tokens,) negative log-likelihoods, (tokens,) weights -> scalar."""
    return (nats * weights).sum()


def task(samples: Sequence[Sample], setting: Setting) -> Task:
    """Answers to imitate, divided by the step's answer tokens."""
    held = setting.hold(samples) if setting.hold else None
    sizes = [len(one.answer) for one in samples]
    plain = imitated(samples, setting.read, setting.thin, held)
    return Task(_anchored(plain, setting.anchor, sizes) if setting.anchor else plain, sizes)


def imitated(samples: Sequence[Sample], read: Reader, thin: Thin = whole, held: Held | None = None) -> Loss:
    """The summed loss of imitation alone: what a teacher is tuned with, too."""

    def summed(model: Any, rows: Sequence[int]) -> torch.Tensor:
        some = [samples[row] for row in rows]
        cost = held.cost(rows) if held else packing.nats
        nats = read(model, [(thin(one.prompt), [one.answer]) for one in some], cost)
        weights = torch.tensor(
            [one.weight * share for one in some for share in one.emphasis or [1.0] * len(one.answer)],
            device=nats.device,
        )
        return loss(nats, weights)

    return summed


def _anchored(plain: Loss, anchor: Anchor, sizes: Sequence[int]) -> Loss:
    """The loss and, a token alike, what it costs to move the weights; `sizes` are what the loop divides a step by."""

    def held(model: Any, rows: Sequence[int]) -> torch.Tensor:
        return plain(model, rows) + anchor.cost(model) * sum(sizes[row] for row in rows)

    return held
