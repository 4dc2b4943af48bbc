"""Examples as token ids, ready for a trainer: laid out by the chat template, cut to what fits, weighed.

Owns: what an example costs in tokens, which ones are too long, how weights act. Refuses to know trainers. Called by
`lora` and `distill`.
"""

import hashlib
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from daemon.training.examples import Example
from daemon.training.objectives import edit
from daemon.transformers_model import completion_tokens, prompt_tokens
from policies.errors import Refused


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids of one example; every answer ends with the end token. `rejected` is empty but for a pair.

    `emphasis`: how much each token of the answer counts, with a mean of 1 (empty: all alike). `replayed`: it was learned
    before.
    """

    prompt: list[int]
    answer: list[int]
    rejected: list[int]
    label: bool
    weight: float
    emphasis: tuple[float, ...] = ()
    replayed: bool = False

    @property
    def length(self) -> int:
        """Tokens of the longest sequence that a trainer makes of it."""
        return len(self.prompt) + max(len(self.answer), len(self.rejected))

    @property
    def cost(self) -> int:
        """Tokens that one look at it reads."""
        return len(self.prompt) + len(self.answer) + (len(self.prompt) + len(self.rejected) if self.rejected else 0)


def encode(
    tokenizer: Any, examples: Iterable[Example], context: int, *, edit_weight: float = 1.0
) -> tuple[list[Sample], int]:
    """(samples, dropped): examples whose prompt and answer fit into `context` tokens, and how many did not.

    `edit_weight`: how much more the changed tokens of a correction count than those that the user left.

    Raises: Refused, when none fits, or the chat template refuses a conversation.
    """
    samples = [sample(tokenizer, example, edit_weight=edit_weight) for example in examples]
    fitting = [one for one in samples if one.length <= context]
    if samples and not fitting:
        shortest = min(one.length for one in samples)
        hint = f"the shortest takes {shortest}: raise max_length, or take a base with a longer context"
        raise Refused(f"no example fits into {context} tokens", hint=hint)
    return fitting, len(samples) - len(fitting)


def sample(tokenizer: Any, example: Example, *, edit_weight: float = 1.0) -> Sample:
    """One example's token ids."""
    answer = completion_tokens(tokenizer, example.completion)
    edited = example.original and edit_weight != 1
    return Sample(
        prompt=prompt_tokens(tokenizer, example.messages),
        answer=answer,
        rejected=completion_tokens(tokenizer, example.rejected) if example.rejected else [],
        label=example.label,
        weight=example.weight,
        emphasis=edit.emphasis(completion_tokens(tokenizer, example.original), answer, edit_weight) if edited else (),
        replayed=example.origin == "replay",
    )


def evened(samples: Sequence[Sample], sizes: Sequence[int]) -> list[Sample]:
    """The same samples, their weights scaled to a mean of 1, so that a learning rate means the same on every set.

    The mean is over what a loss is divided by: `sizes` are a sample's answer tokens, or 1 where every sample counts
    alike. A sample that weighs 2 then pulls exactly like the same sample twice.
    """
    mean = sum(one.weight * size for one, size in zip(samples, sizes, strict=True)) / max(1, sum(sizes))
    return [replace(one, weight=one.weight / mean) for one in samples]


def favoured(samples: Sequence[Sample], factor: float) -> list[Sample]:
    """The same samples; one that isn't replayed weighs `factor` times as much as one that is."""
    return [one if one.replayed else replace(one, weight=factor * one.weight) for one in samples]


def drawn(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The samples repeated by weight (mean 1): floor(weight) times, once more with the rest's probability.

    For trainers that drop weights (trl#5613). No sample with a weight of 1 is ever left out.
    """
    chance = random.Random(seed)
    chosen = [one for one in samples for _ in range(int(one.weight) + (chance.random() < one.weight % 1))]
    return chosen or list(samples)


def interleaved(samples: Sequence[Sample], epochs: float, batch: int, seed: int) -> list[Sample]:
    """Epochs of shuffled samples with both labels spread evenly, cut to whole batches (never a batch of one).

    KTO estimates its KL term within a batch and TRL reads in order: a batch of one label, or of one row, teaches
    nothing or the wrong thing (Ethayarajh et al. 2024, section 4).
    """
    chance = random.Random(seed)
    rows: list[Sample] = []
    while len(rows) < len(samples) * epochs:
        rows += [samples[row] for row in mixed([one.label for one in samples], chance)]
    rows = rows[: round(len(samples) * epochs)]
    return rows[: len(rows) - len(rows) % batch] or rows


def mixed(labels: Sequence[bool], chance: random.Random) -> list[int]:
    """Row numbers of one epoch: shuffled, both labels spread evenly over it."""
    keyed = []
    for label in (True, False):
        group = [row for row, mine in enumerate(labels) if mine is label]
        chance.shuffle(group)
        keyed += [((place + chance.random()) / len(group), row) for place, row in enumerate(group)]
    return [row for _, row in sorted(keyed)]


def partners(samples: Sequence[Sample]) -> list[list[int]]:
    """For every sample another one's answer: the mismatched answers of KTO's zero.

    It follows from the distinct answers alone (the next one in the order of their hashes), so that the reference is
    asked once about it, and a repeated sample changes nothing. A set of one answer has to take that. It is cut where
    prompt and answer would be longer than the longest sample.
    """
    longest = max((one.length for one in samples), default=0)
    distinct = sorted({tuple(one.answer) for one in samples}, key=_hash)
    place = {answer: number for number, answer in enumerate(distinct)}
    others = [distinct[(place[tuple(one.answer)] + 1) % len(distinct)] for one in samples]
    return [list(other[: longest - len(one.prompt)]) for one, other in zip(samples, others, strict=True)]


def _hash(tokens: Sequence[int]) -> bytes:
    return hashlib.sha256(array("q", tokens).tobytes()).digest()
