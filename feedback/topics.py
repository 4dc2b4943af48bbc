"""A prompt's topic as one of 32 bins, without a model: what makes a wave of new questions visible in a histogram.

Owns: how a prompt falls into a bin. Refuses to know what a bin means: it tells a shift, not a subject. Called by
`feedback.sketch` at ingest.

The bin is a hash of the prompt's longest word (its first six letters, so that "refund" and "refunded" are one; of
several the alphabetically first). Longer words are rarer and say more (Zipf's law of abbreviation), so no word counts
have to be kept, and a prompt falls into the same bin on every machine for good. New topics bring new words, which spread
over the bins in other proportions than the old ones did. Hashing words into few bins is Weinberger et al. 2009, "Feature
hashing for large scale multitask learning". One bin a prompt, not one a word: the bins of a window are then independent
counts, as a χ² test wants them.
"""

import re
import unicodedata
from hashlib import sha256

BINS = 32
STEM = 6
_WORD = re.compile(r"[^\W\d_]+")
# Long, and in any question.
_LONG = """
please something anything everything because however without another possible actually currently should would could
bitte können könnte bonjour pourquoi comment porque gracias
"""
_EMPTY = frozenset(_LONG.split())


def topic(prompt: str) -> str:
    """The prompt's bin, "t00" to "t31"; "none" where it has no word."""
    words = _WORD.findall(unicodedata.normalize("NFKC", prompt[:4000]).casefold())
    telling = [word for word in words if word not in _EMPTY] or words
    if not telling:
        return "none"
    longest = min(telling, key=lambda word: (-len(word), word))
    return f"t{sha256(longest[:STEM].encode()).digest()[0] % BINS:02d}"
