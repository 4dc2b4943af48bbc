"""What a teacher thinks of every token of an answer, kept once: its 16 likeliest tokens and one bucket for the rest.

Owns: the shape of soft targets, their loss, and the cache. Refuses to know how answers were chosen and how students are
trained. Called by `distill` and `retain.kl`. Plain top-k targets are biased (arXiv 2503.16870); with the tail as one
more bucket the divergence is that of the coarsened distributions, a lower bound of the full one.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from daemon.decoding import batches
from daemon.training.meter import Meter
from daemon.training.packing import Reader, plain

SHARD = 512  # answers a file: what a killed job has to do again at most


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """For one answer of n tokens: (n, k) ids, (n, k) log-probabilities in nats, (n,) log-probability of the tail."""

    ids: torch.Tensor
    logprobs: torch.Tensor
    tail: torch.Tensor


def divergence(logits: torch.Tensor, targets: SoftTargets) -> torch.Tensor:
    """Forward KL(teacher || student) over k + 1 buckets, in nats a token: (n, vocabulary) logits -> (n,).

    Targets of a batch are its answers' targets joined along n.
    """
    logq = torch.log_softmax(logits.float(), dim=-1).gather(-1, targets.ids)
    logp, tail = targets.logprobs.float(), targets.tail.float()
    rest = torch.logsumexp(logq, dim=-1).clamp(max=-1e-6)
    logq_tail = torch.log(-torch.expm1(rest))
    top = (logp.exp() * (logp - logq)).sum(-1)
    return top + tail.exp() * (tail - logq_tail)


def of_logits(logits: torch.Tensor, top: int) -> SoftTargets:
    """Soft targets of (n, vocabulary) logits. 96 bytes a token at 16: ids as int32, log-probabilities as float16."""
    values, ids = torch.log_softmax(logits.float(), dim=-1).topk(min(top, logits.shape[-1] - 1), dim=-1)
    rest = torch.logsumexp(values, dim=-1).clamp(max=-1e-6)
    return SoftTargets(ids.int().cpu(), values.half().cpu(), torch.log(-torch.expm1(rest)).cpu())


@torch.inference_mode()
def ask(
    model: Any, read: Reader, rows: Sequence[tuple[list[int], list[int]]], vocabulary: int, top: int
) -> Iterator[tuple[int, SoftTargets]]:
    """(row, targets) of every (prompt, answer) of token ids, in batches of like length; ids beyond `vocabulary` are cut
    off: families pad their embeddings to different sizes (trl#2215).
    """
    for batch in batches([len(prompt) + len(answer) for prompt, answer in rows]):
        logits = read(model, [(rows[row][0], [rows[row][1]]) for row in batch], plain)[:, :vocabulary]
        parts = torch.split(logits, [len(rows[row][1]) for row in batch])
        for row, part in zip(batch, parts, strict=True):
            yield row, of_logits(part, top)


def keep(
    folder: Path,
    model: Any,
    read: Reader,
    rows: Sequence[tuple[list[int], list[int]]],
    vocabulary: int,
    top: int,
    meter: Meter,
) -> list[SoftTargets]:
    """Ask for the soft targets of every row and keep them, 512 rows a file; files that are there already are read.

    `folder` must be named after everything that they depend on: teacher, tokenizer, template, rows and `top`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(rows), SHARD)):
        path, part = folder / f"{number:05d}.safetensors", rows[start : start + SHARD]
        if not path.exists():
            made = dict(ask(model, read, part, vocabulary, top))
            _keep(path, [made[row] for row in range(len(part))])
        meter.tell(min(len(rows), start + SHARD), len(rows))
    return kept(folder, [len(answer) for _, answer in rows])


def kept(folder: Path, lengths: Sequence[int]) -> list[SoftTargets]:
    """Read what `keep` kept of answers of these lengths in tokens."""
    targets: list[SoftTargets] = []
    for number, start in enumerate(range(0, len(lengths), SHARD)):
        targets += _read(folder / f"{number:05d}.safetensors", lengths[start : start + SHARD])
    return targets


def _keep(path: Path, targets: Sequence[SoftTargets]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    fields = {name: torch.cat([getattr(one, name) for one in targets]) for name in ("ids", "logprobs", "tail")}
    save_file(fields, draft)
    draft.replace(path)


def _read(path: Path, lengths: Sequence[int]) -> list[SoftTargets]:
    fields = load_file(path)
    parts = zip(*(torch.split(fields[name], list(lengths)) for name in ("ids", "logprobs", "tail")), strict=True)
    return [SoftTargets(ids.long(), logprobs, tail) for ids, logprobs, tail in parts]


def joined(targets: Sequence[SoftTargets], device: Any) -> SoftTargets:
    """The targets of several answers after one another, on a device."""
    return SoftTargets(
        *(torch.cat([getattr(one, name) for one in targets]).to(device) for name in ("ids", "logprobs", "tail"))
    )
