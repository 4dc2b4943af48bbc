"""In which order old records are replayed: every span of history and every slice in turn, so that none is crowded out.

Owns: the order. Refuses to know records and quotas (`feedback.dataset` takes as many as it needs), and which of them are
forgotten: that takes the champion (`daemon.training.retain.forgotten`). Called by `feedback.dataset`.

Balanced reservoirs hold more than uniform ones where history is uneven: Chrysakis & Moens 2020, "Online continual
learning from imbalanced data" (ICML). A slice is the bin of a prompt's telling word (`feedback.topics`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from feedback.topics import topic

SPANS = 10  # of history that replay is drawn from alike, so that a busy month doesn't crowd out a quiet one


@dataclass(frozen=True, slots=True)
class Old:
    """An old record: its sequence number and its slice."""

    seq: int
    slice: str


def slice_of(prompt: str) -> str:
    """The slice that a prompt belongs to."""
    return topic(prompt)


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
    return list(in_turn([in_turn(_parts(span, slices, seed)) for span in spans(list(slices))]))


def _parts(span: Sequence[int], slices: dict[int, str], seed: int) -> list[Iterator[int]]:
    parts: defaultdict[str, list[int]] = defaultdict(list)
    for seq in shuffled(span, seed):
        parts[slices[seq]].append(seq)
    return [iter(parts[name]) for name in sorted(parts, key=lambda name: digest(seed, name))]


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


def shuffled(seqs: Sequence[int], seed: int) -> list[int]:
    """In the order of their hashes: one more record leaves the order among the others as it was."""
    return sorted(seqs, key=lambda seq: digest(seed, str(seq)))


def digest(seed: int, name: str) -> bytes:
    """What a name is sorted by."""
    return sha256(f"{seed}:{name}".encode()).digest()
