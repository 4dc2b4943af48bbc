"""The most forgotten first: of the replayed answers, only those are trained on that the champion is least sure of.

Owns: which ones. Refuses to know how the candidates were drawn (`feedback.replay`) and models. Called by `packed`, before
the first step. An answer that is as sure as ever costs tokens and teaches nothing; what was lost since it was learned
is what the champion says wrongly now. Aljundi et al. 2019 (MIR, arXiv 1908.04742) replay by the rise of the loss too;
theirs is after a look at the new batch, ours before the update.
"""

import math
from collections.abc import Sequence

import torch

from daemon.training.tokens import Sample


def first(samples: Sequence[Sample], surprises: Sequence[torch.Tensor], share: float) -> list[Sample]:
    """All new samples and that `share` in (0, 1] of the replayed ones whose answers cost the champion most a token.

    `surprises`: (tokens,) nats of each answer under the champion. The order stays; at least one replayed sample is kept.
    """
    replayed = [row for row, one in enumerate(samples) if one.replayed]
    worst = sorted(replayed, key=lambda row: (-float(surprises[row].mean()), row))
    dropped = set(worst[math.ceil(share * len(replayed)) :])
    return [one for row, one in enumerate(samples) if row not in dropped]
