"""The loss of a student, over rows of token ids.

Owns: the divergence from a teacher. Refuses to know optimisers. Called by `distill`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from daemon.training.loop import Loss
from daemon.training.packing import Reader, nats
from daemon.training.softtargets import divergence, joined
from daemon.training.transfer import Lesson


def distillation(lesson: Lesson, read: Reader, ce: float) -> Loss:
    """KL(teacher || student) on every answer token; on recorded answers a share `ce` of cross-entropy instead."""

    def loss(model: Any, rows: Sequence[int]) -> torch.Tensor:
        some = [lesson.rows[row] for row in rows]

        def cost(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            logits = logits[:, : lesson.vocabulary]
            soft = divergence(logits, joined([lesson.targets[row] for row in rows], logits.device))
            if not ce:
                return soft
            share = torch.tensor([ce * one.reference for one in some for _ in one.answer], device=logits.device)
            return (1 - share) * soft + share * nats(logits, labels)

        return read(model, [(one.prompt, [one.answer]) for one in some], cost).sum()

    return loss
