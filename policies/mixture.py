"""What a training set is mixed of: quotas of new, replayed and anchor records, and the seed of the draw.

Owns: the arithmetic of shares. Refuses to know records (`feedback.dataset` draws them). Called by `policies.decide`.
"""

from policies.actions import Mixture
from policies.policy import MixtureShares

MOST_OLD = 0.95
WHOLE = ("distill", "full")


def quotas(new: int, shares: MixtureShares, seed: int, method: str = "") -> Mixture:
    """How many records of each kind: `new` available ones keep their share, others are added on top, up to `maximum`.

    Where all weights move (a student that is re-distilled or fully fine-tuned), the share of old records is its own.
    Shares that leave less than 5 % to new records are scaled down to it: an update must teach something new.
    """
    replay = max(0.0, shares.distill_replay if method in WHOLE else shares.replay)
    anchor = max(0.0, shares.anchor)
    old = replay + anchor
    if old > MOST_OLD:
        replay, anchor, old = replay * MOST_OLD / old, anchor * MOST_OLD / old, MOST_OLD
    maximum = max(1, shares.maximum)
    taken = max(0, min(new, round(maximum * (1 - old))))
    total = taken / (1 - old)
    return Mixture(new=taken, replay=round(total * replay), anchor=round(total * anchor), seed=seed)
