"""Near-duplicates of texts that training must not see: equal once normalised, or alike by their letter triples.

Owns: what "nearly the same prompt" means. Refuses to know where texts come from. Called by `feedback.dataset` (throws
them out) and by whoever measures the ancestry of a version for the data gate. Exact, not approximate: a prefix filter
finds every pair above the threshold (Bayardo, Ma, Srikant 2007, "Scaling up all pairs similarity search").
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any

THRESHOLD = 0.8  # Jaccard; the value of Lee et al. 2022, "Deduplicating training data makes language models better"

_NOT_WORD = re.compile(r"[\W_]+")


def prompt_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """What identifies a prompt: the contents of the user's messages, one a line (system and answers are not his)."""
    return "\n".join(str(m.get("content", "")) for m in messages if m.get("role") == "user")


def normalise(text: str) -> str:
    """Compatibility form (NFKC), lower case, words separated by one space, nothing else."""
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingles(text: str) -> frozenset[str]:
    """The letter triples of a normalised text, its ends marked, so that one typo changes at most three of them."""
    padded = f" {text} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2)) or frozenset([padded])


class Near:
    """An index of forbidden texts that answers whether a text is one of them, or nearly.

    Costs a few dictionary lookups a text; memory grows with the forbidden texts.
    """

    def __init__(self, texts: Iterable[str], threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._exact = {normalised for text in texts if (normalised := normalise(text))}
        self._sets = [shingles(text) for text in sorted(self._exact)]
        self._frequency: dict[str, int] = {}
        for grams in self._sets:
            for gram in grams:
                self._frequency[gram] = self._frequency.get(gram, 0) + 1
        self._index: dict[str, list[int]] = {}
        for number, grams in enumerate(self._sets):
            for gram in self._prefix(grams):
                self._index.setdefault(gram, []).append(number)

    def __contains__(self, text: str) -> bool:
        normalised = normalise(text)
        if not normalised:
            return False
        if normalised in self._exact:
            return True
        grams = shingles(normalised)
        met = {number for gram in self._prefix(grams) for number in self._index.get(gram, ())}
        return any(self._alike(grams, self._sets[number]) for number in met)

    def _prefix(self, grams: frozenset[str]) -> list[str]:
        # Two sets this alike share a gram among the rarest of each: only those few are looked up.
        rarest = sorted(grams, key=lambda gram: (self._frequency.get(gram, 0), gram))
        return rarest[: len(grams) - ceil(self._threshold * len(grams) - 1e-9) + 1]

    def _alike(self, one: frozenset[str], other: frozenset[str]) -> bool:
        shared = len(one & other)
        return shared >= self._threshold * (len(one) + len(other) - shared)
