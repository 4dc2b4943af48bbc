"""Retention: whether old abilities are kept, by score and by how likely the champion's own answers still are.

Owns: the two measurements and how completions are drawn. Refuses to know budgets. Called by `daemon.evaluation`.
Completions are sampled from the champion, so that the mean of (champion - candidate) estimates a token's KL(champion ||
candidate); forgetting follows that divergence (Shenfeld et al. 2025, arXiv 2509.04259).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from daemon.probes import Item, Probed, scored
from policies.model import Measurement

LOOSER = {"refusals": "changed", "seed": "changed"}


@dataclass(frozen=True)
class Options:
    """`refusals`: phrases of this product that open a refusal. `seed`: of the champion's sampled answers
    (0: one that belongs to the set, so that all candidates are measured on the same answers).
    """

    refusals: tuple[str, ...] = ()
    seed: int = 0


def measure(version: Probed, items: Sequence[Item], options: Options) -> list[Measurement]:
    """A score in [0, 1] an item, and where it carries a completion that one's mean log-probability in nats a token.

    Raises: Refused where an item's check is not valid.
    """
    found = scored("retention", version, items, options.refusals)
    drawn = [(item, item.completion) for item in items if item.completion is not None]
    found.extend(
        version.measured("retention_logprob", item, total / tokens, options.seed)
        for (item, _), (total, tokens) in zip(drawn, version.nats(drawn), strict=True)
    )
    return found


def completed(champion: Probed, items: Sequence[Item], options: Options) -> list[Item]:
    """The items, each with an answer that the champion sampled."""
    said = champion.sample(items, options.seed)
    return [replace(item, completion=text) for item, text in zip(items, said, strict=True)]
