"""RMS normalisation in fewer passes over memory: forward and backward as one function of a frozen weight.

Owns: the function, and which layers it says the same as, which is tried out. Refuses to know all else: there the layer's
own forward runs (a trained weight, another precision). Called by `packing`. Zhang and Sennrich 2019 (arXiv 1910.07467).
"""

from types import MethodType
from typing import Any

import torch


def quicken(model: Any) -> None:
    """Let layers that normalise so take the shorter way where they can. Weights, names and how they are saved stay."""
    for layer in model.modules():
        if type(layer).__name__.endswith("RMSNorm") and "forward" not in layer.__dict__ and _same(layer):
            layer.forward = MethodType(_quick, layer)


def _quick(layer: Any, x: torch.Tensor) -> torch.Tensor:
    if not _fits(layer) or x.dtype != torch.float32:
        made: torch.Tensor = type(layer).forward(layer, x)
        return made
    found: torch.Tensor = _Normed.apply(x, layer.weight, layer.variance_epsilon)
    return found


def _fits(layer: Any) -> bool:
    return layer.weight.dtype == torch.float32 and not layer.weight.requires_grad


@torch.no_grad()
def _same(layer: Any) -> bool:
    """Whether the layer is what its name says: some scale theirs by 1 + weight, or normalise in groups."""
    if not (hasattr(layer, "variance_epsilon") and isinstance(getattr(layer, "weight", None), torch.Tensor)):
        return False
    x = torch.linspace(-2, 3, 2 * layer.weight.numel(), device=layer.weight.device).view(2, -1)
    return _fits(layer) and torch.allclose(_quick(layer, x), type(layer).forward(layer, x), atol=1e-5)


class _Normed(torch.autograd.Function):
    """y = weight x / rms(x), over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, least: float) -> torch.Tensor:
        lengths: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = lengths.square_().div_(x.shape[-1]).add_(least).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        weighed = slope * weight
        along = torch.linalg.vecdot(weighed, x).unsqueeze(-1)
        return weighed.mul_(scale).addcmul_(x, along.mul_(scale**3), value=-1 / x.shape[-1]), None, None
