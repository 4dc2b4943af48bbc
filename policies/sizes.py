"""How many items a claim takes, and what a set of a given size can prove.

Owns: sample size and power of paired comparisons and of rates, each with its paper. Refuses to know any set. Called by
`policies.gates` and `policies.power`. `error` is one-sided, margins and rates are points of 1.
"""

import math

from policies.stats import quantile


def items_needed(margin: float, discordance: float, error: float = 0.05, power: float = 0.95) -> int:
    """Paired items that prove `margin` (one-sided `error`) with `power` when both are equally good.

    n = (z_error + z_power)² · discordance / margin²: Liu, Hsueh, Hsieh & Chen 2002, Statistics in Medicine 21:231.
    """
    z = quantile(1 - error) + quantile(power)
    floor = quantile(1 - error) ** 2 * (1 - margin) / margin
    return math.ceil(max(z * z * discordance / margin**2, floor))


def provable_margin(n: int, discordance: float, error: float = 0.05, power: float = 0.95) -> float:
    """The smallest margin that `n` paired items can prove; 1 without any. The inverse of `items_needed`.

    Without any disagreement the Wilson limit of `newcombe` remains: z² / (n + z²).
    """
    if n <= 0:
        return 1.0
    z = quantile(1 - error)
    spread = math.sqrt((z + quantile(power)) ** 2 * max(0.0, discordance) / n)
    return min(1.0, max(spread, z * z / (n + z * z)))


def items_for_rate(limit: float, error: float) -> int:
    """Items without one event that prove a rate below `limit`: (1 - limit)^n <= error (Clopper & Pearson at zero)."""
    return math.ceil(math.log(error) / math.log1p(-limit)) if 0 < limit < 1 else 0
