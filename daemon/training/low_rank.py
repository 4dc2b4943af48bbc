"""A LoRA layer in fewer passes over memory: PEFT's own sums, added up where the base layer's output lies.

Owns: forward and backward of a plain LoRA on a frozen linear layer in one precision. Refuses to know all else: there
PEFT's own forward runs (dropout, DoRA, quantised bases, autocast, several adapters). Called by `packing`.
Hu et al. 2021 (arXiv 2106.09685).
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn.functional import linear


def quicken(model: Any) -> None:
    """Let LoRA layers take the shorter way where they can. Their weights, their names and how they are saved stay."""
    for layer in model.modules():
        if type(layer) is Linear:
            layer.__class__ = _Quick


class _Quick(Linear):
    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        name = self.active_adapters[0]
        if args or kwargs or not self._plain(name, x):
            made: torch.Tensor = super().forward(x, *args, **kwargs)
            return made
        base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        found: torch.Tensor = _Added.apply(x, base.weight, base.bias, a, b, self.scaling[name])
        return found

    def _plain(self, name: str, x: torch.Tensor) -> bool:
        base = self.base_layer
        return (
            type(base) is torch.nn.Linear
            and not (base.weight.requires_grad or self.disable_adapters or self.merged or self.lora_variant)
            and [name] == [*self.lora_A] == self.active_adapters
            and type(self.lora_dropout[name]) is torch.nn.Identity
            and self.lora_B[name].bias is None
            and x.dtype == base.weight.dtype == self.lora_A[name].weight.dtype
            and not torch.is_autocast_enabled(x.device.type)
        )


class _Added(torch.autograd.Function):
    """y = x W' + bias + scale (x A') B'."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: torch.Tensor, bias: Any, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> torch.Tensor:
        low = linear(x, a)
        made = linear(x, w, bias)
        made.flatten(0, -2).addmm_(low.flatten(0, -2), b.T, alpha=scale)
        ctx.save_for_backward(x, w, a, b, low)
        ctx.scale = scale
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[Any, ...]:
        x, w, a, b, low = ctx.saved_tensors
        flat = slope.flatten(0, -2)
        down = (flat @ b).mul_(ctx.scale)
        to_x = (flat @ w).addmm_(down, a).view(x.shape) if ctx.needs_input_grad[0] else None
        to_b = (flat.T @ low.flatten(0, -2)).mul_(ctx.scale)
        return to_x, None, None, down.T @ x.flatten(0, -2), to_b, None
