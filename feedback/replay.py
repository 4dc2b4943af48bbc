"""In which order old records are replayed: every span of history and every slice in turn, so that none is crowded out.

Owns: the order. Refuses to know records, quotas and what makes a slice (`feedback.dataset`: the bin of a prompt's telling
word), and which records are forgotten: that takes the champion, so a training job looks (`[method.options.lora]
sft_forgotten`). Called by `feedback.dataset`.

Balanced reservoirs hold more than uniform ones where history is uneven: Chrysakis & Moens 2020, "Online continual
learning from imbalanced data" (ICML).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

T = TypeVar("T")
SPANS = 10  # of history that replay is drawn from alike, so that a busy month doesn't crowd out a quiet one


@dataclass(frozen=True, slots=True)
class Old:
    """An old record: its sequence number and its slice."""

    seq: int
    slice: str


def spans(seqs: Sequence[int]) -> list[list[int]]:
    """The sequence numbers in `SPANS` parts of equal width."""
    made: list[list[int]] = [[] for _ in range(SPANS)]
    if seqs:
        low, width = min(seqs), max(seqs) - min(seqs) + 1
        for seq in seqs:
            made[(seq - low) * SPANS // width].append(seq)
    return made


def order(old: Sequence[Old], seed: int) -> list[int]:
    """All sequence numbers: one from every span in turn, within a span one from every slice in turn, shuffled by `seed`."""
    slices = {one.seq: one.slice for one in old}
    turns = [in_turn(_parts(span, slices, seed, place)) for place, span in enumerate(spans(list(slices)))]
    return list(in_turn(turns))


def _parts(span: Sequence[int], slices: dict[int, str], seed: int, place: int) -> list[Iterator[int]]:
    parts: defaultdict[str, list[int]] = defaultdict(list)
    for seq in shuffled(span, seed):
        parts[slices[seq]].append(seq)
    # Another slice comes first in every span: a quota of one a span would else be of one slice.
    return [iter(parts[name]) for name in sorted(parts, key=lambda name: digest(seed, f"{place}:{name}"))]


def in_turn(parts: Sequence[Iterator[int]]) -> Iterator[int]:
    """One of every part in turn until all are empty."""
    left = list(parts)
    while left:
        kept = []
        for part in left:
            for value in part:
                yield value
                kept.append(part)
                break
        left = kept


def shuffled(values: Iterable[T], seed: int, name: Callable[[T], str] = str) -> list[T]:
    """By hash and not by a generator: what is drawn doesn't depend on the order that a database answers in, and one more
    record leaves the order among the others as it was.
    """
    return sorted(values, key=lambda value: digest(seed, name(value)))


def digest(seed: int, name: str) -> bytes:
    """What a name is sorted by."""
    return sha256(f"{seed}:{name}".encode()).digest()
