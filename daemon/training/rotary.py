"""Rotary positions in fewer passes over memory: forward and backward as one function.

Owns: the function, and which layers it says the same in, which is tried out. Refuses to know the rest of a layer: its own
forward runs, with one name of its own replaced. Called by `packing`. Su et al. 2021 (RoFormer, arXiv 2104.09864).
"""

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch

NAME = "apply_rotary_pos_emb"  # what transformers calls it: of a query, a key, cosines and sines
Turn = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def quicken(model: Any) -> None:
    """Let layers that turn the halves of a head so take the shorter way where they can. Weights, names and how they are
    saved stay, and so does every other layer that uses the same code.
    """
    for layer in model.modules():
        forward = type(layer).forward
        if NAME not in getattr(getattr(forward, "__code__", None), "co_names", ()) or "forward" in layer.__dict__:
            continue
        theirs = forward.__globals__[NAME]
        if _same(theirs):
            names = {**forward.__globals__, NAME: _quick(theirs)}
            quick = FunctionType(forward.__code__, names, argdefs=forward.__defaults__, closure=forward.__closure__)
            quick.__kwdefaults__ = forward.__kwdefaults__
            layer.forward = MethodType(quick, layer)


def _quick(theirs: Turn) -> Turn:
    def turned(
        query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *more: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plain = {each.dtype for each in (query, key, cos, sin)} == {torch.float32}
        if more or named or not plain or cos.shape[-1] != query.shape[-1]:
            return theirs(query, key, cos, sin, *more, **named)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return _Turned.apply(query, cos, sin), _Turned.apply(key, cos, sin)

    return turned


@torch.no_grad()
def _same(theirs: Turn) -> bool:
    """Whether the function is what its name says: some turn neighbours, or a part of a head."""
    query, key = torch.linspace(-2, 3, 48).view(1, 2, 3, 8), torch.linspace(3, 1, 24).view(1, 1, 3, 8)
    angles = torch.linspace(0, 2, 24).view(1, 3, 8)
    try:
        found = (turn(query, key, angles.cos(), angles.sin()) for turn in (theirs, _quick(theirs)))
        return all(torch.allclose(first, second, atol=1e-6) for first, second in zip(*found, strict=True))
    except (TypeError, ValueError, RuntimeError):
        return False


class _Turned(torch.autograd.Function):
    """y = x cos + (-second half of x, first half of x) sin: (1, heads, n, width) by (1, 1, n, width)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        made = x * cos
        for half, other, share, sign in zip(_halves(made), _halves(x)[::-1], _halves(sin), (-1, 1), strict=True):
            half.addcmul_(other, share, value=sign)
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        made = slope * cos
        sides = zip(_halves(made), _halves(slope)[::-1], _halves(sin)[::-1], (1, -1), strict=True)
        for half, other, share, sign in sides:
            half.addcmul_(other, share, value=sign)
        return made, None, None


def _halves(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = states.chunk(2, dim=-1)
    return first, second
