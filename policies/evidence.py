"""Reads the measurements of two versions as pairs and refuses whatever is not whole: doubt never helps a candidate.

Owns: when measurements count as comparable (same items, slices, environment; as many as planned; finite; of the right
version; each once) and how claims become a verdict. Refuses to know limits and margins. Called by `policies.gates.*`.
"""

import math
from collections import Counter
from dataclasses import dataclass

from policies.model import Claim, Evidence, Measurement, Result, Verdict

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Pair:
    """One item measured for both versions."""

    set: str
    item: str
    slice: str
    candidate: float
    champion: float

    @property
    def gain(self) -> float:
        """Candidate less champion."""
        return self.candidate - self.champion


def read(evidence: Evidence, probe: str) -> tuple[dict[Key, Measurement], str]:
    """All measurements of one probe by (set, item), and what is wrong with them ("" when nothing is)."""
    found: dict[Key, Measurement] = {}
    for row in evidence.by_probe.get(probe, ()):
        if row.version != evidence.version:
            return {}, f"a measurement of {row.version or 'no version'} lies among those of {evidence.version}"
        if (row.set, row.item) in found:
            return {}, f"{probe} {row.set}/{row.item} was measured twice for {evidence.version}"
        if not math.isfinite(row.value):
            return {}, f"{probe} {row.set}/{row.item} of {evidence.version} is no number"
        found[row.set, row.item] = row
    return found, ""


def numbers(evidence: Evidence, probe: str, set_name: str) -> tuple[dict[str, float], str]:
    """Values of one probe and set by item, and what is wrong with them."""
    rows, problem = read(evidence, probe)
    return {item: row.value for (name, item), row in rows.items() if name == set_name}, problem


def _incomplete(evidence: Evidence, probe: str, rows: dict[Key, Measurement]) -> str:
    """What `rows` lacks of what the evaluation planned for this version."""
    plan, problem = read(evidence, "plan")
    if problem:
        return problem
    scored = Counter(name for name, _ in rows)
    for (name, item), row in sorted(plan.items()):
        if item == "items" and name not in evidence.sets and row.value != 0:
            return f"set {name} was planned and never measured for {evidence.version}"
    for name, n in sorted(scored.items()):
        planned = plan.get((name, "items"))
        if planned is None:
            return f"nobody says how many items {name} was planned to have for {evidence.version}"
        if planned.value != n:
            return f"{n} of {planned.value:g} items of {name} were scored by {probe} for {evidence.version}"
    return ""


def _unlike(first: Measurement, second: Measurement) -> str:
    where = f"{first.probe} {first.set}/{first.item}"
    if first.slice != second.slice:
        return f"{where} lies in slice {first.slice!r} for one version and {second.slice!r} for the other"
    if first.environment != second.environment:
        return f"{where} was measured in two environments ({first.environment} and {second.environment})"
    return ""


def paired(
    candidate: Evidence, champion: Evidence, probe: str, *, bounded: bool = True, planned: bool = True
) -> tuple[tuple[Pair, ...], str]:
    """The items that `probe` measured for both, sorted, and what is wrong ("" when nothing is).

    `bounded`: values must lie in [0, 1]. `planned`: each set must have as many items as were planned.
    """
    ours, problem = read(candidate, probe)
    theirs, other = read(champion, probe)
    problem = problem or other
    if planned:
        problem = problem or _incomplete(candidate, probe, ours) or _incomplete(champion, probe, theirs)
    if problem:
        return (), problem
    if not ours:
        return (), f"nothing was measured by {probe}"
    odd = sorted(ours.keys() ^ theirs.keys())
    if odd:
        return (), f"{len(odd)} items of {probe} were scored for one version only, first {odd[0][0]}/{odd[0][1]}"
    pairs = []
    for key in sorted(ours):
        first, second = ours[key], theirs[key]
        problem = _unlike(first, second)
        if not problem and bounded and not (0 <= first.value <= 1 and 0 <= second.value <= 1):
            problem = f"{probe} {key[0]}/{key[1]} is outside [0, 1]"
        if problem:
            return (), problem
        pairs.append(Pair(key[0], key[1], first.slice, first.value, second.value))
    return tuple(pairs), ""


def failed(gate: str, version: int, reason: str) -> Verdict:
    """A gate that could not be asked properly refuses."""
    return Verdict(gate, version, Result.FAIL, reason, (Claim("evidence", Result.FAIL, 0, note=reason),))


def verdict(gate: str, version: int, claims: list[Claim]) -> Verdict:
    """The worst claim counts; the sentence is that of the worst claims, or of the first when all passed."""
    if not claims:
        return failed(gate, version, "nothing was claimed")
    worst = max((claim.result for claim in claims), key=lambda result: result.severity)
    notes = [claim.note for claim in claims if claim.result is worst and claim.note]
    shown = notes[:1] if worst is Result.PASS else notes[:3]
    more = f" (and {len(notes) - 3} more)" if worst is not Result.PASS and len(notes) > 3 else ""
    return Verdict(gate, version, worst, "; ".join(shown) + more, tuple(claims))
