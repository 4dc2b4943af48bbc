"""Continuing token rows with a causal language model: batches of like length, one KV cache, a common beginning read once.

Owns: the loop that takes token after token, greedy or drawn, and lets finished rows go; what a batch may hold; padding.
Refuses to know text, templates and files (`daemon.transformers_model`), and any other way of generating: `Decoder.fits`
says where `generate` of transformers is needed instead. Called by `daemon.transformers_model` and the training methods.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import cache_utils

caches: Any = cache_utils  # typed in parts only
BATCH_TOKENS = 16384  # padded tokens a batch: keeps the logits of a large vocabulary within memory
BATCH_ROWS = 256
SHARED = 8  # tokens that all rows of a batch begin with, below which reading them once doesn't pay
# What a model's generation settings may hold without changing which token is the likeliest, or which may be drawn at
# temperature 1; anything else (penalties, forced and suppressed tokens, beams, …) is for `generate`.
PLAIN = frozenset(
    {"_from_model_config", "transformers_version", "use_cache", "max_length", "max_new_tokens"}
    | {"bos_token_id", "eos_token_id", "pad_token_id"}
    | {"do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"}
    | {"output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate"}
)


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model, its pad token and the tokens that end an answer."""

    model: Any
    pad: int
    stops: frozenset[int]

    def fits(self) -> bool:
        """Whether this loop says what `generate` would: attention layers alone, and no settings that bend the choice."""
        inner = unwrapped(self.model)
        stored = inner.generation_config.to_diff_dict()
        bent = {name for name, value in stored.items() if value is not None} - PLAIN
        return not bent and all(isinstance(each, caches.DynamicLayer) for each in _cache(inner).layers)

    def continued(self, prompts: Sequence[list[int]], limit: int, *, sample: bool = False) -> list[list[int]]:
        """Up to `limit` tokens after each prompt of one batch, the stop token with them: likeliest ones, or drawn."""
        logits, mask, cache = read(self.model, prompts, self.pad, keep=1)
        made: list[list[int]] = [[] for _ in prompts]
        alive = list(range(len(prompts)))
        for step in range(limit):
            chosen = _chosen(logits[:, -1].float(), sample=sample)
            going = []
            for place, token in enumerate(chosen.tolist()):
                made[alive[place]].append(token)
                if token not in self.stops:
                    going.append(place)
            if not going or step == limit - 1:
                break
            if len(going) < len(alive):
                kept = torch.tensor(going, device=chosen.device)
                cache.batch_select_indices(kept)
                alive, chosen, mask = [alive[place] for place in going], chosen[kept], mask[kept]
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=-1)
            logits = _forward(self.model, chosen.unsqueeze(-1), mask, cache, keep=1)
        return made


def read(
    model: Any, rows: Sequence[list[int]], pad: int, *, keep: int, shared: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """(rows, `keep`, vocabulary) logits at the right edge of the left-padded rows, their mask, and the filled cache.

    The first `shared` tokens, which all rows must have in common (None: as many as there are, but the last), are read once.
    """
    cache, before = opening(model)
    shared = beginning(rows) if shared is None else shared
    # Behind a shared beginning the padding lies within a row, which only layers that look at everything don't mind.
    if shared < SHARED or len(rows) < 2 or any(type(each) is not caches.DynamicLayer for each in cache.layers):
        shared = 0
    tokens, mask = left_padded([row[shared:] for row in rows], pad, model.device)
    if shared:
        first = torch.tensor([rows[0][:shared]], device=model.device)
        _forward(model, first, first.new_ones(1, before + shared), cache, keep=1)
    if before + shared:
        cache.batch_repeat_interleave(len(rows))
        mask = torch.cat([mask.new_ones(len(rows), before + shared), mask], dim=-1)
    return _forward(model, tokens, mask, cache, keep=keep), mask, cache


def opening(model: Any, **more: Any) -> tuple[Any, int]:
    """A cache of one row with what a prefix or prompt of PEFT puts before every row, and how many tokens that are.

    Whoever reads on from it calls the `unwrapped` model: PEFT would put them there again, before the padding too. A
    gradient goes through it. An empty cache and 0 where nothing stands before. `more` is for the model.
    """
    cache, before = _cache(unwrapped(model)), virtual_tokens(model)
    if not before:
        return cache, 0
    made = model.get_prompt(batch_size=1)
    if isinstance(made, torch.Tensor):  # a prompt is made of embeddings, a prefix of every layer's keys and values
        inner = unwrapped(model)
        more |= {"logits_to_keep": 1} if head_skips(model) else {}
        inner(inputs_embeds=made.to(inner.dtype), past_key_values=cache, use_cache=True, **more)
        return cache, before
    for number, (keys, values, *_) in enumerate(made):
        cache.update(keys, values, number)
    return cache, before


def virtual_tokens(model: Any) -> int:
    """How many tokens a prefix or prompt of PEFT puts before every row."""
    config: Any = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens) if getattr(config, "is_prompt_learning", False) else 0


def beginning(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with alike, at most all but the last one of the shortest."""
    first, last = min(rows), max(rows)  # in lexical order all others lie between these two
    most = min(len(row) for row in rows) - 1
    return next((at for at in range(most) if first[at] != last[at]), max(most, 0))


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, longest) token ids and their mask, every row ending at the right edge."""
    longest = max(len(row) for row in rows)
    tokens = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], dtype=torch.long)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], dtype=torch.long)
    return tokens.to(device), mask.to(device)


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers in batches of like length, short ones first, of at most 256 rows and 16,384 padded tokens."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batch and (len(batch) == BATCH_ROWS or lengths[row] * (len(batch) + 1) > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def unwrapped(model: Any) -> Any:
    """The transformers model itself, under an adapter of PEFT."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_skips(model: Any) -> bool:
    """Whether the model can leave out the logits of places that nobody asks for."""
    return "logits_to_keep" in inspect.signature(unwrapped(model).forward).parameters


def _cache(inner: Any) -> Any:
    return caches.DynamicCache(config=inner.config.get_text_config(decoder=True))


def _forward(model: Any, tokens: torch.Tensor, mask: torch.Tensor, cache: Any, *, keep: int) -> torch.Tensor:
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    more: dict[str, Any] = {"logits_to_keep": keep} if head_skips(model) else {}
    inner = unwrapped(model) if virtual_tokens(model) else model
    made = inner(
        input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **more
    )
    logits: torch.Tensor = made.logits[:, -keep:]
    return logits


def _chosen(logits: torch.Tensor, *, sample: bool) -> torch.Tensor:
    """(rows,) token ids: the likeliest, or drawn at temperature 1."""
    if not sample:
        return logits.argmax(dim=-1)
    return torch.multinomial(torch.softmax(logits, dim=-1), 1).squeeze(-1)
