"""A tiny Llama with its tokenizer, made and trained on the spot.

Owns: architecture, tokenizer, a plain training loop. Refuses to know learnd: what it writes is a folder that any
transformers program loads. Called by `daemon.demo.vendor` and by the banking77 benchmark.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

hf: Any = transformers  # typed in parts only
Network = Any  # a LlamaForCausalLM
Words = Any  # a PreTrainedTokenizerFast

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PROMPT_LOSS = 0.1


@dataclass(frozen=True, slots=True)
class Recipe:
    """`steps` of `batch` dialogues at `rate` (warm-up, then a cosine to a tenth), on `threads` threads.

    `drop`: share of a prompt's tokens that are blanked, anew every time: it helps real questions, not templates.
    """

    steps: int = 1400
    batch: int = 16
    rate: float = 4e-3
    warmup: int = 60
    threads: int = 1
    seed: int = 0
    drop: float = 0.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the Llama; the defaults make 0.94M parameters."""

    vocabulary: int = 1024
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    ffn: int = 352
    context: int = 160


def tokenizer(texts: Iterable[str], vocabulary: int) -> Words:
    """A byte-level BPE tokenizer trained on `texts`, with a chat template and a pad token distinct from the end token."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    specials = [PAD, END, USER, ASSISTANT, SYSTEM]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=PAD, eos_token=END, model_max_length=512)
    fast.chat_template = TEMPLATE
    return fast


def model(shape: Shape, words: Words, seed: int) -> Network:
    """A fresh float32 Llama of this shape for this tokenizer."""
    torch.manual_seed(seed)
    config = hf.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.ffn,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        attn_implementation="sdpa",
    )
    return hf.LlamaForCausalLM(config)


def encode(words: Words, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """(token ids, length of the prompt in tokens) of each (question, answer), by the chat template."""
    prompts = [f"{USER}{question}{END}{ASSISTANT}" for question, _ in pairs]
    answers = [f"{answer}{END}" for _, answer in pairs]
    left = words(prompts, add_special_tokens=False)["input_ids"]
    right = words(answers, add_special_tokens=False)["input_ids"]
    return [([*a, *b], len(a)) for a, b in zip(left, right, strict=True)]


def batches(data: Sequence[tuple[list[int], int]], recipe: Recipe, pad: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Endless (ids, loss weights) of `batch` rows: shuffled, neighbours in length together, padded on the right."""
    rng = random.Random(recipe.seed)
    while True:
        order = rng.sample(range(len(data)), len(data))
        pool = recipe.batch * 32
        groups = []
        for start in range(0, len(order), pool):
            chunk = sorted(order[start : start + pool], key=lambda i: len(data[i][0]))
            groups += [chunk[at : at + recipe.batch] for at in range(0, len(chunk), recipe.batch)]
        rng.shuffle(groups)
        for group in groups:
            rows = [data[i] for i in group]
            width = max(len(ids) for ids, _ in rows)
            ids = torch.tensor(
                [_blanked(row, n, recipe.drop, pad, rng) + [pad] * (width - len(row)) for row, n in rows]
            )
            weights = torch.tensor(
                [[PROMPT_LOSS] * n + [1.0] * (len(row) - n) + [0.0] * (width - len(row)) for row, n in rows]
            )
            yield ids, weights


def _blanked(row: list[int], prompt: int, share: float, pad: int, rng: random.Random) -> list[int]:
    """The row with that share of its prompt's words blanked; the turns' own tokens (the first, the last two) stay."""
    if not share:
        return row
    return [pad if 0 < at < prompt - 2 and rng.random() < share else token for at, token in enumerate(row)]


def fit(
    network: Network,
    data: Sequence[tuple[list[int], int]],
    recipe: Recipe,
    progress: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Network:
    """Train in place: answer loss + 0.1 × prompt loss, AdamW, cosine; `progress(step, loss)` every 50 steps."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=0.01, betas=(0.9, 0.98))
    span = max(1, recipe.steps - recipe.warmup)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, recipe.warmup, span))
    network.train()
    source = batches(data, recipe, int(network.config.pad_token_id))
    for step in range(1, recipe.steps + 1):
        ids, weights = next(source)
        logits = network(input_ids=ids[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            progress(step, float(loss.detach()))
    return network.eval()


def _rate(step: int, warmup: int, span: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + float(torch.cos(torch.tensor(min(1.0, (step - warmup) / span) * torch.pi))))


def save(network: Network, words: Words, folder: Path) -> None:
    """Write the model folder: config, safetensors weights, tokenizer with its template, greedy generation settings."""
    network.generation_config.do_sample = False
    network.save_pretrained(folder, safe_serialization=True)
    words.save_pretrained(folder)


def load(folder: Path) -> tuple[Network, Words]:
    """Model and tokenizer of a folder that `save` wrote."""
    return hf.LlamaForCausalLM.from_pretrained(folder), hf.PreTrainedTokenizerFast.from_pretrained(folder)


def answers(network: Network, words: Words, questions: Sequence[str], limit: int = 40) -> list[str]:
    """Greedy answers in the order of `questions`, batches of like length (no padding inside a batch of one width)."""
    prompts = words([f"{USER}{question}{END}{ASSISTANT}" for question in questions], add_special_tokens=False)[
        "input_ids"
    ]
    widths: dict[int, list[int]] = {}
    for at, prompt in enumerate(prompts):
        widths.setdefault(len(prompt), []).append(at)
    said = [""] * len(prompts)
    with torch.inference_mode():
        for places in widths.values():
            ids = torch.tensor([prompts[at] for at in places])
            made = network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=limit,
                do_sample=False,
                pad_token_id=words.pad_token_id,
            )
            texts = words.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
            for at, text in zip(places, texts, strict=True):
                said[at] = text.strip()
    return said
