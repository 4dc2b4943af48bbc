"""Directions of its own: every update adds a part to the adapter, and the parts before it stay as they are.

Owns: the part, what it costs to read along the older parts' directions, and keeping those. Refuses to know losses and
optimisers. Called by `lora` (the part) and `packed` (the rest). O-LoRA (Wang et al. 2023, arXiv 2310.14152): what an
input means to the older parts is their rows of the first factor A, so the new rows are kept orthogonal to them. All parts
are one LoRA whose rank and alpha are their sums: it loads wherever a LoRA does, and grows with every update.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def size(adapter: Path) -> int:
    """The rank of a saved LoRA: of all its parts together."""
    return int(json.loads((adapter / CONFIG).read_text("utf-8"))["r"])


def grown(adapter: Path, rank: int, folder: Path) -> Path:
    """The saved LoRA with another part of `rank`, drawn by torch's generator, that does nothing yet; in `folder`.

    What a part's product is scaled with stays the same: alpha grows as the rank does.
    """
    config = json.loads((adapter / CONFIG).read_text("utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = {name: _with(name, part, rank) for name, part in sorted(load_file(adapter / WEIGHTS).items())}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    wider = {"r": config["r"] + rank, "lora_alpha": config["lora_alpha"] * (config["r"] + rank) // config["r"]}
    (folder / CONFIG).write_text(json.dumps(config | wider), "utf-8")
    return folder


def _with(name: str, part: torch.Tensor, rank: int) -> torch.Tensor:
    """The first factor with `rank` more rows, as a fresh LoRA begins; the second with as many columns of zeros."""
    if "lora_A" not in name:
        return torch.cat([part, part.new_zeros(part.shape[0], rank)], 1)
    more = part.new_empty(rank, part.shape[1])
    torch.nn.init.kaiming_uniform_(more, a=math.sqrt(5))
    return torch.cat([part, more], 0)


@dataclass(frozen=True, slots=True)
class Apart:
    """The newest part of a grown LoRA beside the first `before` ranks."""

    before: int
    strength: float

    def cost(self, model: Any) -> torch.Tensor:
        """strength x the sum of squared products of new and older rows of every first factor: a scalar in nats a token."""
        along = [(p[self.before :] @ p[: self.before].detach().T).square().sum() for p in _factors(model, "lora_A")]
        return self.strength * torch.stack(along).sum()

    def keeper(self, model: Any) -> Callable[[], None]:
        """Take the older parts' gradients away, and return what puts them back where weight decay moved them."""
        kept = []
        for name, axis in (("lora_A", 0), ("lora_B", 1)):
            for factor in _factors(model, name):
                older = factor.detach().narrow(axis, 0, self.before)
                kept.append((older, older.clone()))
                factor.register_hook(partial(_without, axis=axis, count=self.before))  # type: ignore[no-untyped-call]

        @torch.no_grad()
        def back() -> None:
            for older, start in kept:
                older.copy_(start)

        return back


def _without(gradient: torch.Tensor, *, axis: int, count: int) -> torch.Tensor:
    """The gradient with zeros in the first `count` rows or columns."""
    held = gradient.clone()
    held.narrow(axis, 0, count).zero_()
    return held


def _factors(model: Any, name: str) -> Iterator[torch.Tensor]:
    return (p for key, p in model.named_parameters() if name in key and p.requires_grad)
