"""Time-weighted merging of one adapter: each update goes less of the way than the one before it.

Owns: the start of an update and what is left of it. Refuses to know how weights were trained. Called by `lora`.

After SLAO (Qiao and Mahdavi 2025, Merge before Forget, arXiv 2512.23017): an update begins with orthonormal rows of the
first factor A (a QR decomposition of the one before); when it has ended, A is taken as trained and the second factor B
goes 1/sqrt(t) of the way, t being the number of updates that the adapter then holds. It differs from the paper in that an
update begins where the champion is, so that it begins with what is served: B is turned along with A, and B is the merged
one (theirs goes on from the unmerged B of the update before, which isn't kept).
"""

from collections.abc import Mapping
from typing import Any

import torch

FIRST = ".lora_A."


@torch.no_grad()
def begin(model: Any) -> None:
    """Make the rows of every A orthonormal and turn its B along: the product of both stays what it was.

    An adapter whose rank is above the width of its input is left as it is.
    """
    parameters = dict(model.named_parameters())
    for name, first in parameters.items():
        if FIRST in name and first.requires_grad and first.shape[0] <= first.shape[1]:
            second = parameters[name.replace(FIRST, ".lora_B.")]
            basis, turn = torch.linalg.qr(first.T)
            first.copy_(basis.T)
            second.copy_(second @ turn.T)


@torch.no_grad()
def back(model: Any, start: Mapping[str, torch.Tensor], updates: int) -> None:
    """Leave every A as trained and set all else to start + (end - start) / sqrt(updates); `updates` counts this one."""
    for name, parameter in model.named_parameters():
        if name in start and FIRST not in name:
            parameter.copy_(torch.lerp(start[name], parameter, updates**-0.5))
