"""The last decoder layer, worked out past its keys and values only where an answer's token is predicted.

Owns: which layers that can be done to, and how. Refuses to know documents and losses. Called by `packing`, which proves
that the model says the same. What the last layer makes of a prompt's token, nothing reads but its keys and values: the
rest of its work, as that of the head, is for answers alone.
"""

from types import MethodType
from typing import Any

import torch

from daemon.decoding import unwrapped

PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}  # of a layer that adds up as Llama's does
SCALED = ("residual_multiplier", "scale_depth")  # configurations whose sums are weighed


def shorten(model: Any) -> bool:
    """Let the last layer answer for a `layout`'s `keep` alone, wherever one is given; whether it is of a kind that can."""
    layer = _last(model)
    if layer is not None:
        layer.forward = MethodType(_short, layer)
    return layer is not None


def restore(model: Any) -> None:
    """Undo `shorten`."""
    layer = _last(model)
    if layer is not None:
        layer.__dict__.pop("forward", None)


def shortened(model: Any) -> bool:
    """Whether states come for `keep` alone."""
    layer = _last(model)
    return layer is not None and "forward" in layer.__dict__


def _last(model: Any) -> Any:
    inner = unwrapped(model)
    layers, config = getattr(inner.base_model, "layers", None), inner.config.get_text_config()
    if not layers or any(getattr(config, name, None) is not None for name in SCALED):
        return None
    layer = layers[-1]
    fits = {name for name, _ in layer.named_children()} == PARTS and hasattr(layer.self_attn, "o_proj")
    return layer if fits else None


def _short(layer: Any, hidden_states: torch.Tensor, *args: Any, layout: Any = None, **more: Any) -> torch.Tensor:
    """(1, n, width) -> (1, answer tokens, width); as ever without a layout, or where every token predicts one."""
    if layout is None or layout.after is not None:
        more |= {} if layout is None else {"layout": layout}
        whole: torch.Tensor = type(layer).forward(layer, hidden_states, *args, **more)
        return whole
    kept = _Kept(layout.keep)
    hook = layer.self_attn.o_proj.register_forward_pre_hook(kept)
    try:
        seen, _ = layer.self_attn(layer.input_layernorm(hidden_states), *args, layout=layout, **more)
    finally:
        hook.remove()
    states = hidden_states.index_select(1, layout.keep) + seen
    made: torch.Tensor = states + layer.mlp(layer.post_attention_layernorm(states))
    return made


class _Kept:
    """What a projection is given, where an answer's token is predicted."""

    def __init__(self, keep: torch.Tensor) -> None:
        self.keep = keep

    def __call__(self, _: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (given[0].index_select(1, self.keep), *given[1:])
