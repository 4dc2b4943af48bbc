"""Documents as one row of token ids: which token lies where, who belongs together, and what predicts an answer.

Owns: the layout. Refuses to know models. Called by `packing`. Krell et al. 2021 (arXiv 2107.02027).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from daemon.training.runs import Run, cut

Document = tuple[Sequence[int], Sequence[Sequence[int]]]  # token ids: a prompt and its answers, none of them empty
LIKE = {"cpu": 1.3, "cuda": 4.0}  # longest over shortest sequence of a block: a GPU prefers few calls to little padding


@dataclass(frozen=True, slots=True)
class Layout:
    """(1, n) token ids and positions; (answer tokens,) places that predict them, and the tokens themselves.

    `places`: those of prompt and answer, one block after the other; a block is (sequences, longest) of them, sequences of
    like length together and filled up at the right. `back`: (n,) where a token lies in `places`.

    `runs`: the same sequences, each token in one of them.

    `after`: the layout that was read before and is looked back at: `places` count its tokens first. `seen`: what
    attention was given here, a layer after the other, for who looks back; None where nobody will.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    keep: torch.Tensor
    labels: torch.Tensor
    places: torch.Tensor
    blocks: tuple[tuple[int, int], ...]
    back: torch.Tensor
    runs: tuple[Run, ...]
    after: "Layout | None" = None
    seen: list[tuple[torch.Tensor, ...]] | None = None


@dataclass(slots=True)
class _Row:
    """Tokens one after the other, `before` of them in an earlier layout."""

    before: int = 0
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    keep: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    sequences: list[list[int]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def add(self, tokens: Sequence[int], position: int) -> range:
        """Where they lie, the first of them at that position of its document."""
        start = self.before + len(self.tokens)
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        return range(start, start + len(tokens))

    def behind(self, prompt: range, places: range, *, read: bool) -> None:
        """A sequence of a prompt and what follows it; `read`: the prompt is of a run before."""
        self.sequences.append([*prompt, *places])
        if not read:
            self.runs += cut(range(prompt.start, places.stop), range(0))
        elif places:
            self.runs += cut(places, prompt)

    def laid(self, device: torch.device, **more: Any) -> Layout:
        """Sequences of like length in blocks."""
        flat, blocks, back = list[int](), list[tuple[int, int]](), [-1] * len(self.tokens)
        for block in _blocks(self.sequences, LIKE.get(device.type, 1.3)):
            longest = len(block[-1])
            for sequence in block:
                for place, token in enumerate(sequence, len(flat)):
                    if token >= self.before:
                        back[token - self.before] = place
                flat += [*sequence, *sequence[-1:] * (longest - len(sequence))]
            blocks.append((len(block), longest))
        one = partial(torch.tensor, device=device, dtype=torch.long)
        rows = (one([self.tokens]), one([self.positions]), one(self.keep), one(self.labels))
        return Layout(*rows, one(flat), tuple(blocks), one(back), tuple(self.runs), **more)


def pack(documents: Iterable[Document], device: torch.device, *, seen: bool = False) -> Layout:
    """Lay documents out one after the other. An answer's last token predicts nothing, so it is only a label.

    Raises: ValueError, when a prompt is empty: nothing would predict its answers' first tokens.
    """
    row = _Row()
    for prompt, answers in documents:
        if not prompt:
            raise ValueError("a document without a prompt")
        start = row.add(prompt, 0)
        for number, answer in enumerate(answers):
            places = row.add(answer[:-1], len(prompt))
            row.behind(start, places, read=number > 0)
            row.keep += [start[-1], *places]
            row.labels += answer
    return row.laid(device, seen=[] if seen else None)


def follow(first: Layout, documents: Sequence[Document], more: Sequence[Sequence[Sequence[int]]]) -> Layout:
    """More answers to documents that were read in `first`, whose prompts are not read again.

    `keep` counts the places that predict in `first` and then one for every token here.
    """
    row, start, kept = _Row(first.tokens.shape[1]), 0, 0
    for (prompt, answers), others in zip(documents, more, strict=True):
        for answer in others:
            places = row.add(answer[:-1], len(prompt))
            row.keep += [kept, *(len(first.keep) + place - row.before for place in places)]
            row.labels += answer
            row.behind(range(start, start + len(prompt)), places, read=True)
        start += len(prompt) + sum(len(answer) - 1 for answer in answers)
        kept += sum(map(len, answers))
    return row.laid(first.tokens.device, after=first)


def _blocks(sequences: Sequence[list[int]], like: float) -> Iterable[list[list[int]]]:
    block: list[list[int]] = []
    for sequence in sorted(sequences, key=len):
        if block and len(sequence) > like * len(block[0]):
            yield block
            block = []
        block.append(sequence)
    if block:
        yield block
