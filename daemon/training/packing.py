"""Several documents as one row of tokens: nothing is padded, and a prompt of several answers is read once.

Owns: the attention that stays within a document, the proof that a model keeps to it, and what answers cost in nats.
Refuses to know losses and optimisers. Called by `packed`, `reference` and `distill`.

The head runs where an answer's token is predicted and nowhere else; answers that nobody learns from are read behind the
others, their prompts not again, so that there is nothing of them to go back through.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from daemon.decoding import head_skips, left_padded, opening, unwrapped, virtual_tokens
from daemon.training import head, last_layer, low_rank, norms, rotary, runs
from daemon.training.layout import Document, Layout, follow, pack
from daemon.transformers_model import answer_logits

Cost = Callable[
    [torch.Tensor, torch.Tensor], torch.Tensor
]  # (answer tokens, vocabulary) logits, (answer tokens,) labels
NAME = "learnd_packed"
FOREIGN = ("softcap", "s_aux", "position_bias", "attention_bias")  # what our attention would leave out


class Reader(Protocol):
    """Reads documents with a model: what `cost` makes of every answer token, in the order of the documents."""

    def __call__(
        self, model: Any, documents: Sequence[Document], cost: Cost = ..., *, learned: Sequence[bool] | None = ...
    ) -> torch.Tensor:
        """(answer tokens,) nats, where `cost` is the usual one. `learned`: of which answers a gradient is asked for (None:
        all); the others may come without one.
        """
        ...


def nats(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,) negative log-likelihoods of the labels."""
    return cross_entropy(logits, labels, reduction="none")


def plain(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # noqa: ARG001 (a `Cost`)
    """The logits themselves."""
    return logits


def attention(
    module: torch.nn.Module,  # noqa: ARG001 (the signature of transformers)
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within every document: (1, heads, n, width) each -> (1, n, heads, width).

    What fills a sequence up lies behind its tokens, where causal attention never looks: no mask is needed. Keys and
    values before the first query's are a prefix or prompt: every document begins with them. A layout that follows another
    looks at what this layer was given there.
    Raises: ValueError, when the model asks for something that isn't done here.
    """
    if any(more.get(name) is not None for name in FOREIGN):
        raise ValueError("this model's attention is not plain")
    if sliding_window is not None and key.shape[2] != query.shape[2]:
        raise ValueError("a window of attention would lose a prefix")
    if layout.seen is not None:
        layout.seen.append((query.detach(), key.detach(), value.detach()))
    if layout.after is not None and layout.after.seen is not None:
        older = layout.after.seen.pop(0)
        query, key, value = (torch.cat(both, dim=2) for both in zip(older, (query, key, value), strict=True))
    before = key.shape[2] - query.shape[2]
    if not (before or dropout or sliding_window) and runs.fits(query, layout.runs):
        mine, keys, values = (each[0].transpose(0, 1) for each in (query[:, :, -layout.tokens.shape[1] :], key, value))
        return runs.attended(mine, keys, values, layout.runs, scaling or query.shape[-1] ** -0.5).unsqueeze(0), None
    return _by_blocks(query, key, value, layout, scaling, dropout, sliding_window).unsqueeze(0), None


def _by_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    dropout: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """(n, heads, width): sequences of like length at once, by the usual kernels."""
    made, before = [], key.shape[2] - query.shape[2]
    parts = (_gathered(each, layout) for each in (query, key[:, :, before:], value[:, :, before:]))
    for q, *both in zip(*parts, strict=True):
        (k, v), (count, _, longest, _) = both, q.shape
        near = None
        if before:
            k, v = (
                torch.cat([each[:, :, :before].expand(count, -1, -1, -1), some], dim=2)
                for each, some in ((key, k), (value, v))
            )
            near = torch.ones(longest, before + longest, dtype=torch.bool, device=q.device).tril(before)
        elif sliding_window is not None and longest > sliding_window:
            near = torch.ones(longest, longest, dtype=torch.bool, device=q.device).tril().triu(1 - sliding_window)
        out = scaled_dot_product_attention(
            q, k, v, near, dropout, near is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        made.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(made).index_select(0, layout.back)


def _gathered(states: torch.Tensor, layout: Layout) -> list[torch.Tensor]:
    """(1, heads, n, width) -> every block's (sequences, heads, longest, width), copied once for all of them."""
    flat = states[0].transpose(0, 1).index_select(0, layout.places)
    parts = torch.split(flat, [count * longest for count, longest in layout.blocks])
    return [
        part.view(*shape, *flat.shape[1:]).transpose(1, 2) for part, shape in zip(parts, layout.blocks, strict=True)
    ]


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout says who sees whom."""


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _no_mask)


def packed(
    model: Any, documents: Sequence[Document], cost: Cost = nats, *, learned: Sequence[bool] | None = None
) -> torch.Tensor:
    """What answers cost a model whose attention is ours."""
    weight = head.weight(model) if cost is nats else None

    def told(found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cost(found.float(), labels) if weight is None else head.nats(found, weight, labels)

    parted = (
        None if learned is None or not torch.is_grad_enabled() or virtual_tokens(model) else _parted(documents, learned)
    )
    if parted is None:
        layout = pack(documents, model.device)
        return told(_predicting(model, layout, states=weight is not None), layout.labels)
    own, others, order = parted
    layout = pack(own, model.device, seen=True)
    found = _predicting(model, layout, states=weight is not None)
    costs = told(found, layout.labels)
    with torch.no_grad():
        more = follow(layout, own, others)
        if more.tokens.numel():  # else answers of a single token, which prompts predict
            found = torch.cat([found, _predicting(model, more, states=weight is not None)])
        known = told(found.index_select(0, more.keep), more.labels)
    return torch.cat([costs, known]).index_select(0, torch.tensor(order, device=model.device))


def _predicting(model: Any, layout: Layout, *, states: bool) -> torch.Tensor:
    """What predicts the layout's answers: (answer tokens, width) states, or (answer tokens, vocabulary) logits; of one that
    follows another, what every token of it predicts.
    """
    more, before = dict[str, Any](), virtual_tokens(model)
    if before:
        alone = pack([([0] * before, [[0]])], model.device)  # the virtual tokens see one another and nothing else
        more["past_key_values"], _ = opening(model, layout=alone)
        model = unwrapped(model)
    more |= {"input_ids": layout.tokens, "position_ids": layout.positions + before, "layout": layout}
    done = last_layer.shortened(model) or layout.after is not None
    if states:
        found: torch.Tensor = unwrapped(model).base_model(use_cache=False, **more).last_hidden_state.flatten(0, 1)
    else:
        if head_skips(model) and not done:
            more, done = more | {"logits_to_keep": layout.keep}, True
        found = model(use_cache=False, **more).logits.flatten(0, 1)
    return found if done else found.index_select(0, layout.keep)


def _parted(
    documents: Sequence[Document], learned: Sequence[bool]
) -> tuple[list[Document], list[list[Sequence[int]]], list[int]] | None:
    """Documents with the answers that are learned, the other answers of each, and where every token of all of them is then
    found. None where there is nothing to part: all are learned, or a document has none that is.
    """
    own, others, flags, which = list[Document](), list[list[Sequence[int]]](), list[bool](), iter(learned)
    for prompt, answers in documents:
        kinds = [next(which) for _ in answers]
        flags += [kind for kind, answer in zip(kinds, answers, strict=True) for _ in answer]
        parts = ([one for one, kind in zip(answers, kinds, strict=True) if kind is yes] for yes in (True, False))
        mine, foreign = parts
        own.append((prompt, mine))
        others.append(foreign)
    if all(flags) or not all(mine for _, mine in own):
        return None
    known = sum(flags)
    places = {True: iter(range(known)), False: iter(range(known, len(flags)))}
    return own, others, [next(places[flag]) for flag in flags]


def padded(
    model: Any,
    documents: Sequence[Document],
    cost: Cost = nats,
    *,
    learned: Sequence[bool] | None = None,  # noqa: ARG001 (a `Reader`)
    pad: int,
) -> torch.Tensor:
    """What answers cost any causal model, a row for every answer."""
    rows = [([*prompt], [*answer]) for prompt, answers in documents for answer in answers]
    tokens, mask = left_padded([prompt + answer for prompt, answer in rows], pad, model.device)
    longest = max(len(answer) for _, answer in rows)
    logits = answer_logits(model, tokens, mask, longest)
    flat = torch.cat([logits[place, -len(answer) :] for place, (_, answer) in enumerate(rows)])
    return cost(flat.float(), torch.tensor([token for _, answer in rows for token in answer], device=flat.device))


def reader(model: Any, pad: int) -> Reader:
    """How to read documents with this model: packed where it is proven to keep them apart, else in padded rows."""
    rows = partial(padded, pad=pad)
    training, before = model.training, model.config._attn_implementation
    if before == NAME:
        return packed  # proven before
    low_rank.quicken(model)
    norms.quicken(model)
    rotary.quicken(model)
    model.eval()
    with torch.no_grad():
        one = _document(model.config.get_text_config().vocab_size, 5)
        alone = rows(model, [one])
        proven = last_layer.shorten(model) and _proven(model, one, alone)
        if not proven:
            last_layer.restore(model)
            proven = _proven(model, one, alone)
        found: Reader = packed if proven else rows
    if found is rows:
        model.set_attn_implementation(before)
    model.train(training)
    return found


def _proven(model: Any, document: Document, alone: torch.Tensor) -> bool:
    """Whether a document reads as it does alone when it is packed, to the bit whatever lies before it."""
    config = model.config.get_text_config()
    if getattr(config, "attention_chunk_size", None):
        return False  # chunks come by the mask, which we don't make
    try:
        model.set_attn_implementation(NAME)
        first, second = (
            packed(model, [_document(config.vocab_size, start), document])[-len(alone) :] for start in (3, 11)
        )
    except (TypeError, ValueError, RuntimeError):
        return False
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    return torch.equal(first, second) and float((first - alone).abs().mean()) < tolerance


def _document(vocabulary: int, start: int) -> Document:
    """Some tokens: a prompt and two answers of other lengths."""
    ids = [(start * number) % vocabulary for number in range(1, 13)]
    return ids[:6], [ids[6:9], ids[9:]] if start % 2 == 0 else [ids[6:8], ids[8:]]
