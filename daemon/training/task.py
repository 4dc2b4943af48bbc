"""What an objective is made of, and what the training loop is given of it.

Owns: the values. Refuses to know formulas and the order of rows. Called by `objectives`, `mixing` and `packed`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from daemon.training.layout import Document
from daemon.training.loop import Loss
from daemon.training.packing import Reader
from daemon.training.plan import Plan
from daemon.training.retain.kl import Held
from daemon.training.tokens import Sample

Thin = Callable[[list[int]], list[int]]
Pull = Callable[[Any], torch.Tensor]  # the model -> what its weights cost as they are, a scalar in nats a token


def whole(prompt: list[int]) -> list[int]:
    """All of a prompt."""
    return prompt


@dataclass(frozen=True, slots=True)
class Task:
    """What the loop needs to know of an objective: `sizes` are what a row adds to the step's divisor; `before` is called
    once a step with all of its rows.
    """

    loss: Loss
    sizes: Sequence[int]
    before: Callable[[Any, Sequence[int]], None] | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What all objectives are made of: `ask` returns the reference's nats of every answer, `thin` what a prompt shows,
    `hold` what the champion thinks of answers to imitate (None: they aren't held to it), `pulls` what
    holds weights, in answers to imitate.
    """

    plan: Plan
    read: Reader
    ask: Callable[[Sequence[Document]], list[list[float]]]
    device: torch.device
    thin: Thin = whole
    hold: Callable[[Sequence[Sample]], Held] | None = None
    pulls: Sequence[Pull] = ()
