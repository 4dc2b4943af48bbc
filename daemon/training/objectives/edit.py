"""Corrections: which tokens of an answer the user changed, and how much more they count.

Called by `daemon.training.tokens`; the loss itself is `sft`. What was left as it was, the model says already: most of an
answer's cross-entropy would go to confirming it.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher


def changed(original: Sequence[int], edit: Sequence[int]) -> list[bool]:
    """Whether each token of `edit` was put in by the user, or follows on something that was taken out."""
    found = [False] * len(edit)
    for kind, _, _, first, last in SequenceMatcher(None, original, edit, autojunk=False).get_opcodes():
        if kind == "delete" and first < len(edit):
            found[first] = True
        elif kind in ("insert", "replace"):
            found[first:last] = [True] * (last - first)
    return found


def emphasis(original: Sequence[int], edit: Sequence[int], weight: float) -> tuple[float, ...]:
    """(tokens,) factors of an edit: `weight` times as much on what was changed, with a mean of 1, so that the correction
    as a whole counts what it counted.
    """
    raw = [weight if mine else 1.0 for mine in changed(original, edit)]
    mean = sum(raw) / len(raw)
    return tuple(value / mean for value in raw)
