"""What a policy's margins promise and the accepted sets can't prove, in sentences.

Owns: the comparison of a policy's claims with the sizes of the sets. Refuses to compute statistics (`policies.stats`)
and to block anything: a set that is too small makes candidates inconclusive, never promoted. Called by `daemon.doctor`.
"""

from collections.abc import Iterable, Iterator

from policies import words
from policies.model import SetView
from policies.policy import Policy
from policies.stats import items_for_rate, items_needed, provable_margin

GUESS = 0.08  # share of items on which two versions disagree, where none has been seen yet


def shortfalls(policy: Policy, sets: Iterable[SetView]) -> Iterator[tuple[str, str]]:
    """(what can't be proven, what to do) of every claim whose set is too small, at the policy's own error rates."""
    by_role: dict[str, list[SetView]] = {}
    for each in sets:
        by_role.setdefault(each.role, []).append(each)
    for gate, role in (("regression", "goldens"), ("retention", "anchor")):
        if gate in policy.gates and getattr(policy.gates[gate], "enabled", True):
            yield from _margin(policy, gate, by_role.get(role, []), role)
    if "safety" in policy.gates:
        yield from _safety(policy, by_role.get("safety", []))


def _margin(policy: Policy, gate: str, sets: list[SetView], role: str) -> Iterator[tuple[str, str]]:
    options = policy.gates[gate]
    n = sum(each.items for each in sets)
    if not n:
        yield f"{gate} has no set of role {role}", f"learnctl goldens import FILE --role {role}"
        return
    seen = [each.discordance for each in sets if each.discordance is not None]
    disagreed = max(seen) if seen else GUESS
    provable = provable_margin(n, disagreed, options.error_rate)
    if provable > options.margin:
        told = f"{words.percent(disagreed)} disagreed last time" if seen else f"if {words.percent(disagreed)} disagree"
        needed = items_needed(options.margin, disagreed, options.error_rate)
        yield (
            f"{gate} promises what its set can't prove: margin {options.margin:g} with {n:,} items ({told})",
            f"{n:,} items prove a margin of {provable:.3f}; set that, or bring about {words.about(needed)} items",
        )


def _safety(policy: Policy, sets: list[SetView]) -> Iterator[tuple[str, str]]:
    options = policy.gates["safety"]
    n = sum(each.items for each in sets)
    if not n:
        yield "safety has no set", "learnctl goldens import FILE --role safety (slices harmful, benign, canary)"
        return
    strictest = min([options.other, *options.limits.values()])
    needed = items_for_rate(strictest, options.error_rate)
    if n < needed:
        yield (
            f"safety promises what its set can't prove: limit {strictest:g} with {n:,} items in all kinds together",
            f"at least {needed:,} faultless items of a kind prove that limit",
        )
