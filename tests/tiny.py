"""A tiny Llama and its tokenizer, built on the spot: what the tests of training and probes run on.

Owns: `build`, `teach`, and the environment that children of learnd run in (offline, no telemetry, one thread), which
has to be set before transformers is imported. Called by tests that are marked `torch`; nothing here is downloaded.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from daemon.jobs.server import ENVIRONMENT
from daemon.models import Ref

os.environ.update(ENVIRONMENT)
os.environ.setdefault("OMP_NUM_THREADS", "1")

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
WORDS = (
    "what is the capital of france paris germany berlin spain madrid italy rome colour sky blue grass green "
    "blood red how many legs has a dog four spider eight bird two please say hello goodbye sorry I can not help with "
    "that the answer is do know where opens shop nine at closes refund order number thanks yes no"
)


KNOWN = {
    "what is the capital of france": "paris",
    "what is the capital of italy": "rome",
    "how many legs has a dog": "four",
    "how many legs has a spider": "eight",
    "what colour is the sky": "blue",
    "what colour is blood": "red",
    "what colour is grass": "green",
}


def ask(prompt: str) -> list[dict[str, str]]:
    """A conversation of one question."""
    return [{"role": "user", "content": prompt}]


def line(objective: str, prompt: str, completion: str, **more: Any) -> dict[str, Any]:
    """One line of a training file, as `feedback.dataset` writes them."""
    plain = {"seq": 1, "rejected": None, "label": None, "weight": 1.0, "origin": "new"}
    return {**plain, "objective": objective, "messages": ask(prompt), "completion": completion, **more}


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> str:
    """Write a training file; its path."""
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), "utf-8")
    return str(path)


def build(
    folder: Path,
    *,
    corpus: Iterable[str] = (),
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    ffn: int = 128,
    vocabulary: int = 400,
    context: int = 128,
    seed: int = 0,
    name: str = "tiny@000000000000",
) -> Ref:
    """Write an untrained Llama (0.1M parameters) with a BPE tokenizer and a chat template to `folder`.

    Its widths are such that 4-bit kernels take them.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer([WORDS, *corpus], vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Ref(name=name, folder=str(folder))


def teach(
    ref: Ref, pairs: dict[str, str], *, more: Sequence[tuple[str, str]] = (), steps: int = 150, lr: float = 1e-2
) -> None:
    """Train the weights in a folder until it answers these prompts as told (plain AdamW on answers, in place).

    `more`: pairs whose prompts may be there already: they are then answered this way or that.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from daemon.decoding import left_padded
    from daemon.transformers_model import (
        answer_logits,
        completion_tokens,
        open_tokenizer,
        open_weights,
        prompt_tokens,
    )

    torch.set_num_threads(1)
    tokenizer, model = open_tokenizer(ref), open_weights(ref).train()
    whole = [*pairs.items(), *more]
    answers = [completion_tokens(tokenizer, answer) for _, answer in whole]
    prompts = [prompt_tokens(tokenizer, ask(prompt)) for prompt, _ in whole]
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    tokens, mask = left_padded(rows, tokenizer.pad_token_id, "cpu")
    longest = max(map(len, answers))
    labels = tokens[:, -longest:].clone()
    for row, answer in enumerate(answers):
        labels[row, : longest - len(answer)] = -100
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        loss = cross_entropy(answer_logits(model, tokens, mask, longest).flatten(0, 1), labels.flatten())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    model.save_pretrained(ref.folder)


def _tokenizer(corpus: list[str], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet)
    raw.train_from_iterator(corpus, trainer)
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer
