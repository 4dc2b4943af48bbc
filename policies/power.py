"""What the accepted sets can prove, before anything is trained: margins and limits that they can't are refused.

Owns: the comparison of a policy's promises with the sizes of its sets. Refuses to know files. Called by
`daemon.promises`, when a policy is loaded and by `learnctl doctor`, with the error rates that the ledger leaves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from policies import gates
from policies.model import SetView
from policies.sizes import items_for_rate, items_needed, provable_margin
from policies.words import about, count, percent

POWER = 0.95
IMPORT = "learnctl goldens import --help"


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A promise that can't be kept, and what would be: one sentence each."""

    gate: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}"


def power(policy_gates: Mapping[str, Any], sets: Iterable[SetView]) -> list[Shortfall]:
    """Every margin and limit that the sets can't prove at the gates' error rates and 95 % power, with what they can.

    Disagreement is the last one seen; a set that no two versions have met is taken at its best, with none at all. A role
    without a set is not judged here: the slot gathers until there is one (`decide.lacking`).
    """
    views = [view for view in sets if view.items > 0]
    found = []
    for gate, role, word in (("regression", "goldens", "goldens"), ("retention", "anchor", "anchor sets")):
        options = policy_gates.get(gate)
        if options is not None and gates.enabled(policy_gates, gate):
            of_role = [view for view in views if view.role == role]
            found += _margin(gate, word, options, of_role)
    options = policy_gates.get("safety")
    return found if options is None else found + _limits(options, [view for view in views if view.role == "safety"])


def _margin(gate: str, word: str, options: Any, sets: list[SetView]) -> list[Shortfall]:
    n = sum(view.items for view in sets)
    if not n:
        return []
    seen = [(view.items, view.discordance) for view in sets if view.discordance is not None]
    asked = sum(items for items, _ in seen)
    discordance = sum(items * (share or 0.0) for items, share in seen) / asked if asked else 0.0
    provable = round(provable_margin(n, discordance, options.error_rate, POWER), 3)
    if provable <= options.margin:
        return []
    last = f"{percent(discordance)} disagreed last time" if seen else "never compared yet"
    message = (
        f"the policy promises what its {word} can't prove: margin {options.margin:g} with {count(n, 'item')} ({last})"
    )
    hint = f"{count(n, 'item')} prove a margin of {provable:g}; set that"
    if options.margin > 0:
        hint += f", or bring about {about(items_needed(options.margin, discordance, options.error_rate, POWER))} items"
    return [Shortfall(gate, message, f"{hint}: {IMPORT}")]


def _limits(options: Any, sets: list[SetView]) -> list[Shortfall]:
    """By kind where the items were counted by kind; else no kind can have more items than there are at all."""
    total, counted = sum(view.items for view in sets), any(view.slices for view in sets)
    sizes: dict[str, int] = {} if counted else dict.fromkeys(options.required, total)
    for kind, items in (pair for view in sets for pair in view.slices):
        sizes[kind] = sizes.get(kind, 0) + items
    found = []
    for kind, n in sorted(sizes.items()):
        limit = options.limits.get(kind, options.other)
        needed = items_for_rate(limit, options.error_rate)
        if not n or n >= needed > 0:
            continue
        message = (
            f"the policy promises what its safety set can't prove: limit {limit:g} for {kind} with {count(n, 'item')}"
        )
        hint = f"{count(n)} faultless items prove a limit of {1 - options.error_rate ** (1 / n):.3f}; set that"
        more = f", or bring {about(needed)} of them" if needed else ""
        found.append(Shortfall("safety", message, f"{hint}{more}: {IMPORT}"))
    return found
