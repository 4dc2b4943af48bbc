"""What the reference thinks of every answer, asked once and kept by content.

Owns: the file of a stage, in its checkpoint folder: it is gone with the stage, and another run on other data, options or
models never sees it (`resume.claim`). Refuses to know objectives. Called by `packed`.

The reference is the adapter as it was when the stage began, so it has to be asked before the first step, and only then.
"""

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from daemon.jobs import read_json, write_json
from daemon.training.layout import Document
from daemon.training.meter import Meter
from daemon.training.packing import Reader

FILE = "reference.json"
SHARD = 1024  # documents between two writes: what a killed job has to do again at most


def ask(
    model: Any, reader: Reader, documents: Sequence[Document], batch: int, folder: Path, meter: Meter
) -> list[list[float]]:
    """Nats of every answer of every document under the model as it is; equal answers to equal prompts are asked once."""
    kept: dict[str, float] = read_json(folder / FILE) or {}
    keys = [[_key(prompt, answer) for answer in answers] for prompt, answers in documents]
    missing: dict[tuple[str, ...], Document] = {}
    for key, document in zip(keys, documents, strict=True):
        if any(one not in kept for one in key):
            missing[tuple(key)] = document
    asked = sorted(missing.items(), key=lambda pair: _length(pair[1]))
    training = model.training
    model.eval()
    for start in range(0, len(asked), batch):
        some = asked[start : start + batch]
        names = [key for keys_of, _ in some for key in keys_of]
        kept |= zip(names, totals(model, reader, [document for _, document in some]), strict=True)
        meter.tell(min(len(asked), start + batch), len(asked))
        if (start + batch) // SHARD != start // SHARD or start + batch >= len(asked):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / FILE, kept)
    model.train(training)
    return [[kept[one] for one in key] for key in keys]


@torch.no_grad()
def totals(model: Any, reader: Reader, documents: Sequence[Document]) -> list[float]:
    """Nats of every answer, in order, no gradient kept."""
    return [float(value) for value in summed(reader(model, documents), documents)]


def summed(nats: torch.Tensor, documents: Sequence[Document]) -> torch.Tensor:
    """(answers,) nats from those of their tokens."""
    sizes = [len(answer) for _, answers in documents for answer in answers]
    return torch.stack([part.sum() for part in torch.split(nats, sizes)])


def _key(prompt: Sequence[int], answer: Sequence[int]) -> str:
    digest = hashlib.sha256(array("q", [len(prompt), *prompt, *answer]).tobytes())
    return digest.hexdigest()[:32]


def _length(document: Document) -> int:
    prompt, answers = document
    return len(prompt) + sum(map(len, answers))
