"""Going only part of the way: the weights between where an update began and where its training ended.

Owns: the interpolation. Refuses to know how weights were trained. Called by `lora` after a stage. Wortsman et al. 2022
(WiSE-FT, arXiv 2109.01903): most of what an update gains lies on the first part of the way, most of what it forgets on
the last.
"""

from collections.abc import Mapping
from typing import Any

import torch


@torch.no_grad()
def back(model: Any, start: Mapping[str, torch.Tensor], share: float) -> None:
    """Set every trained parameter to start + share x (end - start), in place; `share` in (0, 1], 1 leaves the end."""
    for name, parameter in model.named_parameters():
        if name in start:
            parameter.copy_(torch.lerp(start[name], parameter, share))
