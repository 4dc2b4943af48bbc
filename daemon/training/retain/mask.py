"""Masking what is foreign: tokens of an answer that the champion finds most unlikely are read, but not learned.

Owns: which tokens. Refuses to know losses and models. Called by `packed`, before the first step. Wu et al. 2025
(Mitigating forgetting in LLM fine-tuning via low-perplexity token learning, arXiv 2501.14315): they pull hardest on the
weights. A name that the champion never heard is such a token, too: a mask that is set too low learns nothing new.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from daemon.training.tokens import Sample


def hidden(samples: Sequence[Sample], surprises: Sequence[torch.Tensor], perplexity: float) -> list[Sample]:
    """The samples with an emphasis of 0 on every token whose perplexity exp(nats) is above `perplexity`.

    `surprises`: (tokens,) nats of each answer under the champion.
    """
    most = math.log(perplexity)
    return [
        replace(
            one, emphasis=tuple(0.0 if nats > most else share for share, nats in zip(_shares(one), told, strict=True))
        )
        for one, told in zip(samples, (each.tolist() for each in surprises), strict=True)
    ]


def _shares(sample: Sample) -> tuple[float, ...]:
    return sample.emphasis or (1.0,) * len(sample.answer)
