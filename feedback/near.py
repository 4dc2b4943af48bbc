"""Texts that are nearly the same: equal once normalised, alike by their letter triples, or by their words.

Owns: what "nearly the same prompt" means. Refuses to know where texts come from. Called by `feedback.dataset` (throws
out what training must not see), by whoever measures the ancestry of a version for the data gate, and by
`feedback.quarantine`, which has texts compared by rules that may not read them.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, pairwise
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

THRESHOLD = 0.8  # Jaccard; the value of Lee et al. 2022, "Deduplicating training data makes language models better"

SKETCH = 64  # hashes kept of one text
BLOCK = 256  # texts compared at once: bounds memory at a few MB a thousand forbidden texts
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


def words(text: str) -> tuple[frozenset[int], frozenset[int]]:
    """Hashes of the words and of the word pairs of a text, the `SKETCH` smallest of each: compared without the text.

    A sample of the same places of every text (Broder 1997, "On the resemblance and containment of documents"), so that
    what two long texts share is found in both sketches; a short answer is kept whole.
    """
    said = normalise(text).split()
    pairs = (f"{one} {other}" for one, other in pairwise(said))
    return _sketch(said), _sketch(pairs)


def _sketch(parts: Iterable[str]) -> frozenset[int]:
    return frozenset(sorted({_hashed(part) for part in parts})[:SKETCH])


@lru_cache(maxsize=200_000)
def _hashed(part: str) -> int:
    return int.from_bytes(blake2b(part.encode(), digest_size=8).digest(), "big")


class Near:
    """Forbidden texts, and which of other texts nearly are one of them.

    Compares all with all by one sparse product a block of texts: 10,000 short questions with 3,000 take a few seconds.
    """

    def __init__(self, texts: Iterable[str], threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._exact = {normalised for text in texts if (normalised := normalise(text))}
        sets = [shingles(text) for text in sorted(self._exact)]
        self._columns = {gram: column for column, gram in enumerate(sorted({gram for grams in sets for gram in grams}))}
        self._sizes = np.array([len(grams) for grams in sets], dtype=np.int64)
        self._held = self._matrix(sets).T.tocsr()

    def hits(self, texts: Sequence[str]) -> list[bool]:
        """For every text, in order, whether it is one of the forbidden ones or nearly."""
        normalised = [normalise(text) for text in texts]
        found = [text in self._exact for text in normalised]
        rest = [number for number, text in enumerate(normalised) if text and not found[number]]
        for start in range(0, len(rest) if self._exact else 0, BLOCK):
            block = rest[start : start + BLOCK]
            for row in self._alike([shingles(normalised[number]) for number in block]):
                found[block[row]] = True
        return found

    def __contains__(self, text: str) -> bool:
        return self.hits([text])[0]

    def _alike(self, sets: Sequence[frozenset[str]]) -> Iterable[int]:
        sizes = np.array([len(grams) for grams in sets], dtype=np.int64)
        shared = (self._matrix(sets) @ self._held).tocoo()
        union = sizes[shared.row] + self._sizes[shared.col] - shared.data
        return (int(row) for row in np.unique(shared.row[shared.data >= self._threshold * union - 1e-9]))

    def _matrix(self, sets: Sequence[frozenset[str]]) -> Any:
        rows = [[self._columns[gram] for gram in grams if gram in self._columns] for grams in sets]
        ends = np.cumsum([0, *(len(row) for row in rows)])
        ones = np.ones(int(ends[-1]), dtype=np.int64)
        return csr_matrix((ones, list(chain.from_iterable(rows)), ends), shape=(len(sets), len(self._columns)))
