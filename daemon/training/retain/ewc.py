"""Elastic weights: what matters to old answers is held where it was, the rest may move.

Owns: how much a weight matters, and what moving it costs. Refuses to know steps and optimisers. Called by `packed`.
Kirkpatrick et al. 2017 (arXiv 1612.00796). The diagonal Fisher information is taken at the champion, on replayed rows
with their recorded answers (the empirical Fisher), so that nothing has to be carried from update to update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from daemon.training.packing import Reader
from daemon.training.tokens import Sample

FILE = "fisher.safetensors"
ROWS = 256  # replayed rows that are asked at most, evenly out of all


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the trained weights began, and how much each of them matters: squared nats by squared weight, a token."""

    start: Mapping[str, torch.Tensor]
    fisher: Mapping[str, torch.Tensor]
    strength: float

    def cost(self, model: Any) -> torch.Tensor:
        """strength / 2 x the sum of Fisher x (weight - start)², a scalar in nats a token."""
        moved = [
            (self.fisher[name] * (parameter - self.start[name]) ** 2).sum()
            for name, parameter in model.named_parameters()
            if name in self.start
        ]
        return self.strength / 2 * torch.stack(moved).sum()


def anchor(model: Any, read: Reader, samples: Sequence[Sample], strength: float, folder: Path) -> Anchor | None:
    """Ask the model as it is, before the first step; None where no row is replayed: then nothing is known to matter."""
    replayed = [one for one in samples if one.replayed]
    if not replayed:
        return None
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    path = folder / FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{FILE}")
        some = replayed[:: -(-len(replayed) // ROWS)]
        save_file(_fisher(model, read, some, list(start)), draft)
        draft.replace(path)
    fisher = load_file(path, device=str(model.device))
    return Anchor(start, fisher, strength)


def _fisher(model: Any, read: Reader, samples: Sequence[Sample], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The mean over rows of the squared gradient of an answer's mean nats."""
    training = model.training
    model.eval()
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(parameters[name]) for name in names}
    for one in samples:
        cost = read(model, [(one.prompt, [one.answer])]).mean()
        slopes = torch.autograd.grad(cost, [parameters[name] for name in names])
        for name, slope in zip(names, slopes, strict=True):
            sums[name] += slope.detach() ** 2 / len(samples)
    model.train(training)
    return {name: value.contiguous() for name, value in sums.items()}
