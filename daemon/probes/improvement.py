"""Improvement: whether the version answers as users of the window that asked for the update had wanted it.

Owns: how an answer is compared with a correction or a preferred answer. Refuses to know what gain is enough, and
to read ratings, which judge the champion's answers. Called by `daemon.evaluation` with `judge` records.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.probes import Item, Probed, score
from daemon.probes.texts import normalise, overlap
from policies.model import Measurement

SCORES = ("match", "overlap")
LOOSER = {"score": "changed"}


@dataclass(frozen=True)
class Options:
    """`score`: `match` (the wanted answer is in it, word for word) or `overlap` (F1 of the words, for long answers)."""

    score: str = "match"

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"score = {self.score!r} is not one of {', '.join(SCORES)}")


def measure(version: Probed, items: Sequence[Item], options: Options) -> list[Measurement]:
    """One score in [0, 1] an item against its reference; the answer that the user turned down scores nothing."""
    return [
        version.measured("improvement", item, _score(item, answer, options))
        for item, answer in zip(items, version.answer(items), strict=True)
    ]


def _score(item: Item, answer: str, options: Options) -> float:
    if item.rejected and normalise(answer) == normalise(item.rejected) != normalise(item.reference):
        return 0.0
    return overlap(item.reference, answer) if options.score == "overlap" else score(item, answer)
