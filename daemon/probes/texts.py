"""Two texts side by side: what counts as the same wording, and how much of one is in the other.

Owns: normal forms and the two plain measures of likeness. Refuses to know what a score is for. Called by
`daemon.probes.checks`, `daemon.probes.definitions` and `daemon.probes.improvement`.
"""

import unicodedata

EDGES = ".,;:!?\"'()[]{}<>*_`…“”‘’«»"


def normalise(text: str) -> str:
    """`text` without differences that no reader minds: case, width, white space, punctuation at the edges of words."""
    words = (word.strip(EDGES) for word in folded(text).split())
    return " ".join(word for word in words if word)


def folded(text: str) -> str:
    """`text` without case and width, quotes straightened."""
    # Folding case can undo the normal form, so that it is brought about once more (Unicode 3.13, D147).
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.replace("’", "'").replace("‘", "'")


def squash(text: str) -> str:
    """The letters and digits of `text` alone, folded."""
    return "".join(c for c in folded(text) if c.isalnum())


def overlap(reference: str, answer: str) -> float:
    """F1 of the words that two texts share, in [0, 1], order left out (Rajpurkar et al. 2016)."""
    wanted, said = normalise(reference).split(), normalise(answer).split()
    common = sum(min(wanted.count(word), said.count(word)) for word in set(wanted))
    return 2 * common / (len(wanted) + len(said)) if common else 0.0


def similarity(reference: str, answer: str) -> float:
    """ROUGE-L in [0, 1]: F1 of the longest common subsequence of words, so that their order counts (Lin 2004)."""
    wanted, said = normalise(reference).split(), normalise(answer).split()
    common = [0] * (len(said) + 1)  # one row of the table of Hirschberg 1975 at a time
    for word in wanted:
        before = common
        common = [0]
        for place, other in enumerate(said):
            common.append(before[place] + 1 if word == other else max(before[place + 1], common[place]))
    return 2 * common[-1] / (len(wanted) + len(said)) if common[-1] else 0.0
