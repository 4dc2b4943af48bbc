"""Attention within documents, a run of tokens at a time: on a CPU, where sequences are short.

Owns: forward and backward over runs as a `Layout` has them. Refuses to know models. Called by `layout` and `packing`.

A run is a part of what begins a document, or of another answer to its prompt, which is not read again. Nothing is filled
up, and only prompts are copied; as few tokens as are usual here are slow in kernels made for many. What tokens give one
another is kept for the way back, so this is for sequences of up to LONGEST tokens.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch

LONGEST = 256  # tokens of a sequence
MOST = 96  # tokens of a run: so few that most of what they look at lies behind


class Run(NamedTuple):
    """Tokens `first` to `last`, which look at those from `own` on, and at those from `start` to `end` (ends excluded)."""

    first: int
    last: int
    own: int
    start: int
    end: int

    @property
    def seen(self) -> int:
        """How many tokens the last one looks at."""
        return self.end - self.start + self.last - self.own


def cut(tokens: range, prompt: range) -> list[Run]:
    """Tokens in runs; `prompt`: where that lies which they stand behind, if it is of runs before."""
    count = max(1, -(-len(tokens) // MOST))
    cuts = [tokens.start + number * len(tokens) // count for number in range(count + 1)]
    return [Run(first, last, tokens.start, prompt.start, prompt.stop) for first, last in pairwise(cuts)]


def fits(query: torch.Tensor, runs: Sequence[Run]) -> bool:
    """Whether this is the faster way."""
    plain = query.device.type == "cpu" and query.dtype == torch.float32
    return plain and max((run.seen for run in runs), default=0) <= LONGEST


def attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, runs: Sequence[Run], scale: float
) -> torch.Tensor:
    """Causal attention: (n, heads, width) queries; (m, heads or fewer, width) keys and values, the last n of them the
    queries' own -> (n, heads, width). `runs` count in keys.
    """
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = (each.repeat_interleave(shared, dim=1) for each in (key, value))
    found: torch.Tensor = _Attended.apply(query, key, value, runs, scale)
    return found


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, runs: Sequence[Run], scale: float
    ) -> torch.Tensor:
        before, made, kept = len(key) - len(query), torch.empty_like(query), list[torch.Tensor]()
        learned = any(ctx.needs_input_grad)
        for run in runs:
            far = _far()[run.seen - run.last + run.first : run.seen, : run.seen]
            shares = torch.baddbmm(far, _own(query, run, before), _seen(key, run).transpose(1, 2), alpha=scale).softmax(
                -1
            )
            _own(made, run, before).copy_(torch.bmm(shares, _seen(value, run)))
            if learned:
                kept.append(shares)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.runs, ctx.scale = runs, scale
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, *kept = ctx.saved_tensors
        before = len(key) - len(query)
        to_query, to_key, to_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for run, shares in zip(ctx.runs, kept, strict=True):
            given = _own(slope, run, before)
            _give(to_value, run, torch.bmm(shares.transpose(1, 2), given))
            pull = torch.bmm(given, _seen(value, run).transpose(1, 2))
            pull = torch._softmax_backward_data(pull, shares, -1, shares.dtype).mul_(ctx.scale)
            _own(to_query, run, before).copy_(torch.bmm(pull, _seen(key, run)))
            _give(to_key, run, torch.bmm(pull.transpose(1, 2), _own(query, run, before)))
        return to_query, to_key, to_value, None, None


@cache
def _far() -> torch.Tensor:
    """(LONGEST, LONGEST) -inf where a token would look ahead."""
    return torch.full((LONGEST, LONGEST), -torch.inf).triu(1)


def _own(states: torch.Tensor, run: Run, before: int) -> torch.Tensor:
    """(heads, tokens, width) of a run."""
    return states[run.first - before : run.last - before].transpose(0, 1)


def _seen(states: torch.Tensor, run: Run) -> torch.Tensor:
    """(heads, tokens, width) of what a run looks at."""
    own = states[run.own : run.last]
    return (torch.cat([states[run.start : run.end], own]) if run.start < run.end else own).transpose(0, 1)


def _give(states: torch.Tensor, run: Run, more: torch.Tensor) -> None:
    """Add to what a run looks at: (heads, tokens, width)."""
    more, prompt = more.transpose(0, 1), run.end - run.start
    states[run.own : run.last].add_(more[prompt:])
    if prompt:
        states[run.start : run.end].add_(more[:prompt])
