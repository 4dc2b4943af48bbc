"""Several documents as one row of tokens: nothing is padded, and a prompt of several answers is read once.

Owns: the layout, the attention that stays within a document, the proof that a model keeps to it, and what answers cost
in nats. Refuses to know losses and optimisers. Called by `packed`, `reference` and `distill`.

The head runs where an answer's token is predicted and nowhere else. Krell et al. 2021 (arXiv 2107.02027).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from daemon.decoding import head_skips, left_padded, opening, unwrapped, virtual_tokens
from daemon.training import head, last_layer, low_rank, norms
from daemon.transformers_model import answer_logits

Document = tuple[Sequence[int], Sequence[Sequence[int]]]  # token ids: a prompt and its answers, none of them empty
Cost = Callable[
    [torch.Tensor, torch.Tensor], torch.Tensor
]  # (answer tokens, vocabulary) logits, (answer tokens,) labels
NAME = "learnd_packed"
LIKE = {"cpu": 1.3, "cuda": 4.0}  # longest over shortest sequence of a block: a GPU prefers few calls to little padding
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


@dataclass(frozen=True, slots=True)
class Layout:
    """(1, n) token ids and positions; (answer tokens,) places that predict them, and the tokens themselves.

    `places`: those of prompt and answer, one block after the other; a block is (sequences, longest) of them, sequences of
    like length together and filled up at the right. `back`: (n,) where a token lies in `places`.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    keep: torch.Tensor
    labels: torch.Tensor
    places: torch.Tensor
    blocks: tuple[tuple[int, int], ...]
    back: torch.Tensor


def pack(documents: Iterable[Document], device: torch.device) -> Layout:
    """Lay documents out one after the other. An answer's last token predicts nothing, so it is only a label.

    Raises: ValueError, when a prompt is empty: nothing would predict its answers' first tokens.
    """
    tokens, positions, keep, labels, sequences = list[int](), list[int](), list[int](), list[int](), list[list[int]]()
    for prompt, answers in documents:
        if not prompt:
            raise ValueError("a document without a prompt")
        start, end = len(tokens), len(tokens) + len(prompt)
        tokens += prompt
        positions += range(len(prompt))
        for answer in answers:
            places = range(len(tokens), len(tokens) + len(answer) - 1)
            tokens += answer[:-1]
            positions += range(len(prompt), len(prompt) + len(places))
            keep += [end - 1, *places]
            labels += answer
            sequences.append([*range(start, end), *places])
    flat, blocks, back = list[int](), list[tuple[int, int]](), [-1] * len(tokens)
    for block in _blocks(sequences, LIKE.get(device.type, 1.3)):
        longest = len(block[-1])
        for sequence in block:
            for place, token in enumerate(sequence, len(flat)):
                back[token] = place
            flat += [*sequence, *sequence[-1:] * (longest - len(sequence))]
        blocks.append((len(block), longest))
    one = partial(torch.tensor, device=device)
    return Layout(one([tokens]), one([positions]), one(keep), one(labels), one(flat), tuple(blocks), one(back))


def _blocks(sequences: Sequence[list[int]], like: float) -> Iterable[list[list[int]]]:
    block: list[list[int]] = []
    for sequence in sorted(sequences, key=len):
        if block and len(sequence) > like * len(block[0]):
            yield block
            block = []
        block.append(sequence)
    if block:
        yield block


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
    values before the first query's are a prefix or prompt: every document begins with them.
    Raises: ValueError, when the model asks for something that isn't done here.
    """
    if any(more.get(name) is not None for name in FOREIGN):
        raise ValueError("this model's attention is not plain")
    if sliding_window is not None and key.shape[2] != query.shape[2]:
        raise ValueError("a window of attention would lose a prefix")
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
    return torch.cat(made).index_select(0, layout.back).unsqueeze(0), None


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
    layout, more = pack(documents, model.device), dict[str, Any]()
    before = virtual_tokens(model)
    if before:
        alone = pack([([0] * before, [[0]])], model.device)  # the virtual tokens see one another and nothing else
        more["past_key_values"], _ = opening(model, layout=alone)
        model = unwrapped(model)
    more |= {"input_ids": layout.tokens, "position_ids": layout.positions + before, "layout": layout}
    weight, short = head.weight(model) if cost is nats else None, last_layer.shortened(model)
    if weight is not None:
        states = unwrapped(model).base_model(use_cache=False, **more).last_hidden_state.flatten(0, 1)
        states = states if short else states.index_select(0, layout.keep)
        return head.nats(states, weight, layout.labels, _tokens(documents, learned, model.device))
    if head_skips(model) and not short:
        more, short = more | {"logits_to_keep": layout.keep}, True
    logits = model(use_cache=False, **more).logits.flatten(0, 1)
    return cost((logits if short else logits[layout.keep]).float(), layout.labels)


def _tokens(documents: Sequence[Document], learned: Sequence[bool] | None, device: torch.device) -> torch.Tensor | None:
    """(answer tokens,) which belong to answers that are learned; None where all do, or no gradient is kept."""
    if learned is None or all(learned) or not torch.is_grad_enabled():
        return None
    sizes = [len(answer) for _, answers in documents for answer in answers]
    return torch.tensor(learned, device=device).repeat_interleave(torch.tensor(sizes, device=device))


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
