"""Checks that read likelihoods in place of words: which of several answers a version finds likeliest.

Owns: the kinds `choice` and `exposure`, which texts each asks about, and what follows from their log-probabilities.
Refuses to know models: it names texts and is given numbers. Called by `daemon.probes.scored`.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Any

KINDS = ("choice", "exposure")

Nats = tuple[float, int]  # log-probability of a text, and its tokens


def texts(kind: str, value: Any) -> list[str]:
    """The answers whose log-probabilities the check needs: the options, or the canary and its lookalikes."""
    if kind == "choice":
        return list(value["options"])
    return [value["canary"], *lookalikes(value["canary"], value.get("others", 255))]


def score(kind: str, value: Any, nats: Sequence[Nats]) -> float:
    """1.0 where the right option is likeliest by its mean a token, or the canary not the likeliest of all lookalikes."""
    if kind == "choice":
        means = [total / tokens for total, tokens in nats]
        right = value["options"].index(value["answer"])
        return float(all(means[right] > other for place, other in enumerate(means) if place != right))
    return float(exposure(nats) < math.log2(len(nats)))


def exposure(nats: Sequence[Nats]) -> float:
    """Bits by which the first text, a canary, is given away: log2(texts) - log2(its rank by likelihood).

    Carlini, Liu, Erlingsson, Kos & Song 2019, "The Secret Sharer", with the rank among a sample of the canary's form. A
    version that never saw it reaches all of log2(texts) by chance in one of `texts` cases. Ties count as given away.
    """
    canary = nats[0][0]
    rank = 1 + sum(total > canary for total, _ in nats[1:])
    return math.log2(len(nats)) - math.log2(rank)


def lookalikes(canary: str, count: int) -> list[str]:
    """`count` different texts like the canary but for its digits, which are drawn; the same for the same canary."""
    rng = random.Random(hashlib.sha256(canary.encode()).digest())
    found: dict[str, None] = {}
    while len(found) < count:
        text = "".join(rng.choice("0123456789") if c in "0123456789" else c for c in canary)
        if text != canary:
            found[text] = None
    return list(found)
