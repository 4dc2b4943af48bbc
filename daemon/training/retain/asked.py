"""What the champion thinks of every answer to imitate: asked before the first step, and kept.

Owns: the file of a stage, in its checkpoint folder, so that a resumed run goes by the same figures; and the count of
what is read before any learning. Refuses to know what follows from it (`mask`, `forgotten`). Called by `packed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from daemon.decoding import batches
from daemon.training.layout import Document
from daemon.training.packing import Cost, Reader, nats
from daemon.training.tokens import Sample

FILE = "asked.safetensors"


@dataclass(slots=True)
class Counted:
    """A reader that counts the tokens that it reads: what an update costs before its first step."""

    read: Reader
    tokens: int = 0

    def __call__(
        self, model: Any, documents: Sequence[Document], cost: Cost = nats, *, learned: Sequence[bool] | None = None
    ) -> torch.Tensor:
        """As the reader itself."""
        self.tokens += sum(len(prompt) + sum(map(len, answers)) for prompt, answers in documents)
        return self.read(model, documents, cost, learned=learned)


@torch.no_grad()
def surprises(model: Any, read: Reader, samples: Sequence[Sample], folder: Path) -> list[torch.Tensor]:
    """(tokens,) nats of every sample's answer, led along it, under the model as it is."""
    path, sizes = folder / FILE, [len(one.answer) for one in samples]
    if not path.exists():
        training = model.training
        model.eval()
        found = [torch.empty(0)] * len(samples)
        for rows in batches([len(one.prompt) + len(one.answer) for one in samples]):
            some = read(model, [(samples[row].prompt, [samples[row].answer]) for row in rows])
            for row, part in zip(rows, torch.split(some.float().cpu(), [sizes[row] for row in rows]), strict=True):
                found[row] = part
        model.train(training)
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{FILE}")
        save_file({"nats": torch.cat(found)}, draft)
        draft.replace(path)
    return list(torch.split(load_file(path)["nats"], sizes))
