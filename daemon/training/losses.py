"""The loss of a student, over rows of token ids.

Owns: the divergence from a teacher. Refuses to know optimisers. Called by `distill`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from daemon.training.loop import Loss
from daemon.training.packing import flat_logits
from daemon.training.softtargets import divergence, joined
from daemon.training.transfer import Lesson


def distillation(lesson: Lesson, pad: int, ce: float) -> Loss:
    """KL(teacher || student) on every answer token; on recorded answers a share `ce` of cross-entropy instead."""

    def loss(model: Any, rows: Sequence[int]) -> torch.Tensor:
        some = [lesson.rows[row] for row in rows]
        logits = flat_logits(model, [(one.prompt, one.answer) for one in some], pad)[:, : lesson.vocabulary]
        soft = divergence(logits, joined([lesson.targets[row] for row in rows], logits.device))
        if not ce:
            return soft.sum()
        labels = torch.tensor([token for one in some for token in one.answer], device=logits.device)
        share = torch.tensor([ce * one.reference for one in some for _ in one.answer], device=logits.device)
        hard = cross_entropy(logits.float(), labels, reduction="none")
        return ((1 - share) * soft + share * hard).sum()

    return loss
