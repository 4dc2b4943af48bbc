"""What answer tokens cost, straight from the states before the output layer: their logits are never kept.

Owns: the negative log-likelihood of a plain output layer and its gradient, a chunk of tokens at a time. Refuses to know
documents. Called by `packing`, where the costs are the usual ones and the output layer isn't trained.

What a token's cost does to its state follows from the forward pass alone, (softmax - label) x weight, so it is computed
there, while the chunk's logits are at hand; backward only scales it. Memory grows with the tokens times the width, not
times the vocabulary. Hsu et al. 2024 (Liger, arXiv 2410.10989) do the same with the weight's gradient as well.
"""

from typing import Any

import torch

from daemon.decoding import unwrapped

# Tokens and words of the vocabulary at once: what a core's cache has room for; a GPU takes all words of as many tokens as
# its spare memory has room for.
TILES = {"cpu": (512, 2048), "cuda": (0, 0)}
LOGITS = 1 << 27
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")


def weight(model: Any) -> torch.Tensor | None:
    """The (vocabulary, width) weight of the output layer, where it is all that lies between states and logits, and frozen.

    None elsewhere. A model with something more that isn't named here doesn't pass `packing`'s proof.
    """
    inner = unwrapped(model)
    layer, config = inner.get_output_embeddings(), inner.config.get_text_config()
    kind: Any = type(layer)
    if kind is not torch.nn.Linear or layer.bias is not None or layer.weight.requires_grad:
        return None
    found: torch.Tensor = layer.weight
    return None if any(getattr(config, name, None) is not None for name in SCALED) else found


def nats(states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,) float32 negative log-likelihoods of the labels: (n, width) states, (vocabulary, width) frozen weight."""
    told: torch.Tensor = _Nats.apply(states, weight, labels)
    return told


class _Nats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        told = torch.empty(len(states), device=states.device)
        slopes = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        rows, tile = TILES.get(states.device.type, TILES["cpu"])
        rows = rows or max(1, LOGITS // len(weight))
        for start in range(0, len(states), rows):
            some = slice(start, start + rows)
            told[some], slope = _part(states[some], weight, labels[some], tile or len(weight), slopes is not None)
            if slopes is not None:
                slopes[some] = slope
        ctx.save_for_backward(slopes)
        return told

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, costs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * costs.unsqueeze(1).to(slopes.dtype), None, None


def _part(
    states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, tile: int, sloped: bool
) -> tuple[torch.Tensor, Any]:
    """(rows,) costs, and what they do to the states, over the vocabulary in tiles: sums so far are scaled down where a
    likelier token is met (Milakov and Gimelshein 2018, arXiv 1805.02867).
    """
    label, count = labels.unsqueeze(1), len(states)
    top = states.new_full((count, 1), -torch.inf, dtype=torch.float32)
    total, wanted = torch.zeros_like(top), torch.zeros_like(top)
    pulled = torch.zeros(states.shape, device=states.device) if sloped else None
    for start in range(0, len(weight), tile):
        part = weight[start : start + tile]
        made = states @ part.T
        logits, place = made.float(), label - start
        told = logits.gather(1, place.clamp(0, len(part) - 1))
        wanted = torch.where((place >= 0) & (place < len(part)), told, wanted)
        peak = torch.maximum(top, logits.amax(1, keepdim=True))
        shrunk, top = (top - peak).exp_(), peak
        shares = logits.sub_(peak).exp_()
        total.mul_(shrunk).add_(shares.sum(1, keepdim=True))
        if pulled is not None:
            pulled.mul_(shrunk)
            if made.dtype == torch.float32:
                pulled.addmm_(shares, part)
            else:
                pulled.add_(shares.to(made.dtype) @ part)
    if pulled is not None:
        pulled.div_(total).sub_(weight[labels])
    return (top + total.log() - wanted).squeeze(1), pulled
