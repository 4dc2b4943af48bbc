"""Holding an update to what the champion already says right: its own soft targets, in the place of the bare answer.

Owns: which answers are held, and what a token of them costs. Refuses to know steps and optimisers. Called by `packed`.

An answer is held where the champion, led along it, prefers each of its tokens: a praised answer, or a replayed one. What
it would not say is to be learned, and is imitated. Li and Hoiem 2016 (learning without forgetting, arXiv 1606.09282).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from daemon.training import softtargets
from daemon.training.meter import Meter
from daemon.training.packing import Cost, Reader, nats
from daemon.training.softtargets import SoftTargets
from daemon.training.tokens import Sample

TOP = 16
FOLDER = "held"


@dataclass(frozen=True, slots=True)
class Held:
    """The champion's soft targets of every answer, and which answers are held to them with what share in [0, 1]."""

    targets: Sequence[SoftTargets]
    shares: Sequence[float]

    def cost(self, rows: Sequence[int]) -> Cost:
        """What tokens of these rows cost: (1 - share) x nats of the answer + share x KL(champion || candidate)."""

        def cost(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            some = [self.targets[row] for row in rows]
            share = torch.tensor(
                [self.shares[row] for row in rows for _ in self.targets[row].tail], device=logits.device
            )
            soft = softtargets.divergence(logits, softtargets.joined(some, logits.device))
            return (1 - share) * nats(logits, labels) + share * soft

        return cost


def held(model: Any, read: Reader, samples: Sequence[Sample], share: float, folder: Path, meter: Meter) -> Held:
    """Ask the model as it is, before the first step; kept in the stage's `folder`, so that a resumed run has the same."""
    training = model.training
    model.eval()
    rows = [(one.prompt, one.answer) for one in samples]
    vocabulary = model.config.get_text_config().vocab_size
    targets = softtargets.keep(folder / FOLDER, model, read, rows, vocabulary, TOP, meter)
    model.train(training)
    return Held(targets, [share * _said(one, soft) for one, soft in zip(samples, targets, strict=True)])


def _said(sample: Sample, targets: SoftTargets) -> bool:
    return targets.ids[:, 0].tolist() == sample.answer
