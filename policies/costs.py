"""What an attempt costs in money, and whether what it is expected to bring is worth that.

Owns: the price of a usage, and the weighing of expected cost against expected gain. Refuses to know how anything was
measured (`daemon.jobs.usage`) and to guess what nobody measured. Called by `policies.method` and `daemon.costs`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from policies.model import Experience, Usage
from policies.policy import Costs
from policies.words import count

HOUR = 3600.0  # seconds
KWH = 3.6e6  # joules
NAMES = {"lora": "a LoRA update", "full": "full fine-tuning", "distill": "re-distillation"}


@dataclass(frozen=True, slots=True)
class Weighing:
    """`dear`: a method would cost more than it is expected to bring; `reason`: by which numbers, or why none are weighed.

    Both are empty where the policy has no prices, or nothing that a gain is worth.
    """

    dear: bool = False
    reason: str = ""


def money(usage: Usage, prices: Costs) -> float | None:
    """What a usage costs, in the policy's currency: the sum of what is measured and has a price; None where nothing is.

    What nobody could measure is left out, so the true cost is this or more.
    """
    priced = (
        (usage.gpu_seconds, prices.gpu_hour / HOUR),
        (usage.cpu_seconds, prices.cpu_hour / HOUR),
        (usage.joules, prices.kwh / KWH),
    )
    known = [quantity * price for quantity, price in priced if price > 0 and quantity is not None]
    return sum(known) if known else None


def total(usages: Sequence[Usage]) -> Usage:
    """All of them together; a quantity is None only where it is unknown in each."""
    tokens = [usage.tokens for usage in usages if usage.tokens is not None]
    return Usage(
        seconds=sum(usage.seconds for usage in usages),
        cpu_seconds=_sum([usage.cpu_seconds for usage in usages]),
        gpu_seconds=_sum([usage.gpu_seconds for usage in usages]),
        joules=_sum([usage.joules for usage in usages]),
        tokens=sum(tokens) if tokens else None,
    )


def mean(usages: Sequence[Usage]) -> Usage:
    """The average of at least one; of each quantity over those that know it."""

    def over(values: Sequence[float | None]) -> float | None:
        whole = _sum(values)
        return None if whole is None else whole / sum(value is not None for value in values)

    tokens = over([usage.tokens for usage in usages])
    return Usage(
        seconds=sum(usage.seconds for usage in usages) / len(usages),
        cpu_seconds=over([usage.cpu_seconds for usage in usages]),
        gpu_seconds=over([usage.gpu_seconds for usage in usages]),
        joules=over([usage.joules for usage in usages]),
        tokens=None if tokens is None else round(tokens),
    )


def tried(method: str, experience: Sequence[Experience]) -> bool:
    """Whether a method was tried here, whatever of it could be measured: no price changes that."""
    return any(each.method == method and each.attempts > 0 for each in experience)


def weigh(method: str, experience: Sequence[Experience], prices: Costs) -> Weighing:
    """Expected cost, at today's prices, against what the expected gain is worth; what isn't known is not weighed."""
    if prices.worth <= 0 or max(prices.gpu_hour, prices.cpu_hour, prices.kwh) <= 0:
        return Weighing()
    past = next((each for each in experience if each.method == method and each.attempts > 0), None)
    if past is None:
        return Weighing(reason="its cost is not weighed: no attempt of it was judged here yet")
    cost, worth = money(past.usage, prices), 100 * past.gain * prices.worth
    if cost is None:
        return Weighing(reason="its cost is not weighed: nothing that has a price was measured")
    tries = "attempt" if past.attempts == 1 else count(past.attempts, "attempt")
    told = (
        f"{cost:.2f} {prices.currency} for an expected gain of {100 * past.gain:.1f} points, worth {worth:.2f} "
        f"(by its last {tries})"
    )
    dear = cost > worth
    return Weighing(dear, f"{NAMES.get(method, method)} would cost {told}" if dear else f"expected to cost {told}")


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
