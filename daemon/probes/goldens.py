"""Goldens: what the version answers to the items that a person accepted, scored by each item's check.

Owns: nothing but the name of its measurements. Refuses to know margins. Called by `daemon.evaluation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.probes import Item, Probed, scored
from policies.model import Measurement


@dataclass(frozen=True)
class Options:
    """`refusals`: phrases of this product that open a refusal, beside the usual ones."""

    refusals: tuple[str, ...] = ()


def measure(version: Probed, items: Sequence[Item], options: Options) -> list[Measurement]:
    """One score in [0, 1] an item, of the greedy answer.

    Raises: Refused where an item's check is not valid.
    """
    return scored("goldens", version, items, options.refusals)
