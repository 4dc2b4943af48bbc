"""Which questions were asked: the smallest hashes of a window's questions, and what two such sketches say.

Owns: the sketch, its sums, its estimates, its frozen form. Refuses to know tables and windows. Called by
`feedback.sketch` (what a block keeps), `feedback.windows` and `daemon.looking`.

A bottom-k sketch (Cohen & Kaplan 2007, "Summarizing data using bottom-k sketches"; Broder 1997, "On the resemblance and
containment of documents"): the smallest hashes are a sample of the different questions, taken at the same places of every
window, so that a union's is that of the unions', and what two windows share is found in both. A block keeps all of its
hundred records' hashes, a window the smallest `KEPT`: fewer are every question there was, and nothing is estimated then.
A MinHash of 128 permutations says less of a window that is small beside the reference: of 2,000 questions among 40,000
its share is off by 19 to 26 points (root mean square), this one's by 3 to 4, and it costs ingest sixteen times the time.

The hashes are the last 40 bits of a record's `prompt_hash`, an HMAC under the fold key: who hasn't the key can't try out
what was asked. With the key, a text that one has already can be looked for, but neither who asked it nor anything that
isn't guessed whole. An erasure takes a record's hash out of its block (`feedback.erase`), so that the block doesn't tell
the one that is missing among its records; a window that was frozen before keeps it, as one among all of that window.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from policies.model import Questions
from policies.stats import wilson

KEPT = 2048
DIGITS = 10  # of the hex hash; the first ones decide the fold, so that the smallest would be of one fold alone
SPACE = 16**DIGITS
ERROR = 0.05  # chance that the interval of a share misses it


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of `n` records (those that tell none too): the smallest `KEPT` hashes of them, rising."""

    n: int = 0
    hashes: tuple[int, ...] = ()

    @property
    def limit(self) -> int:
        """Every hash below it is here."""
        return SPACE if len(self.hashes) < KEPT else self.hashes[-1]

    @property
    def distinct(self) -> float:
        """How many different questions there were: counted, or with a standard error of 1/√(KEPT - 2) of it."""
        return len(self.hashes) if self.limit == SPACE else (KEPT - 1) * SPACE / (self.limit + 1)


def hashed(prompt_hash: str) -> int:
    """A question's place in the sketch, from the keyed hash of it (hex)."""
    return int(prompt_hash[-DIGITS:], 16)


def merged(parts: Iterable[Asked | None]) -> Asked | None:
    """The sketch of all parts' questions; None (unknown) where one part's are."""
    n, hashes = 0, set[int]()
    for part in parts:
        if part is None:
            return None
        n += part.n
        hashes.update(part.hashes)
    return Asked(n, tuple(sorted(hashes)[:KEPT]))


def told(reference: Asked | None, current: Asked | None) -> Questions:
    """How many different questions `current` has, and the share of them that `reference` had; None where unknown.

    The share is that of the hashes below both limits, with the interval of Wilson 1927 for a sample of that size, which
    shrinks to nothing where it is of all questions (the correction for finite populations).
    """
    if current is None or not current.hashes:
        return Questions()
    distinct, counted = current.distinct, current.limit == SPACE
    found = Questions(round(distinct), 0.0 if counted else distinct / math.sqrt(KEPT - 2))
    if reference is None or not reference.hashes:
        return found
    limit, there = min(reference.limit, current.limit), set(reference.hashes)
    seen = [one in there for one in current.hashes if one < limit]
    if not seen:
        return found
    share, left = sum(seen) / len(seen), 1 - len(seen) / distinct
    low, high = (share, share) if left <= 0 else wilson(sum(seen) / left, len(seen) / left, ERROR)
    return Questions(found.distinct, found.error, share, low, high)


def to_json(asked: Asked | None) -> dict[str, Any] | None:
    """The sketch as a block stores it, and a baseline."""
    return None if asked is None else {"n": asked.n, "hashes": list(asked.hashes)}


def from_json(data: Mapping[str, Any] | None) -> Asked | None:
    """The sketch that was stored. Raises: KeyError, TypeError or ValueError where it is none."""
    return None if data is None else Asked(int(data["n"]), tuple(int(one) for one in data["hashes"]))
