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

LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}  # at once: what a cache, or a GPU's spare memory, has room for
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
        size = max(1, LOGITS.get(states.device.type, LOGITS["cpu"]) // len(weight))
        for start in range(0, len(states), size):
            some = slice(start, start + size)
            made = states[some] @ weight.T
            logits, label = made.float(), labels[some].unsqueeze(1)
            top, wanted = logits.amax(1, keepdim=True), logits.gather(1, label)
            shares = logits.sub_(top).exp_()
            total = shares.sum(1, keepdim=True)
            told[some] = (top + total.log() - wanted).squeeze(1)
            if slopes is not None:
                shares.div_(total).scatter_add_(1, label, shares.new_full(label.shape, -1.0))
                slopes[some] = shares.to(made.dtype) @ weight
        ctx.save_for_backward(slopes)
        return told

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, costs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * costs.unsqueeze(1).to(slopes.dtype), None, None
