"""Proof: there are prompts by which a target can show that it serves the candidate and not the champion.

Owns: how many such prompts are needed. Knows nothing of targets. Called by `policies.gates.judge_all`. Reads probe
`proof`, set `proof`, item `distinct_prompts`, of the candidate only.
"""

from dataclasses import dataclass

from policies.evidence import failed, numbers, verdict
from policies.model import Claim, Evidence, Result, Verdict
from policies.words import count

VERSION = 1
LOOSER = {"minimum": "lower"}


@dataclass(frozen=True, slots=True)
class Options:
    """`minimum`: prompts on which candidate and champion must answer differently, at least 1."""

    minimum: int = 1


def judge(candidate: Evidence, champion: Evidence, anchor: Evidence | None, options: Options) -> Verdict:  # noqa: ARG001
    """Pass with enough distinguishing prompts, else inconclusive: what can't be proven served isn't promoted."""
    found, problem = numbers(candidate, "proof", "proof")
    if problem or "distinct_prompts" not in found:
        return failed("proof", VERSION, problem or "not measured: distinct_prompts")
    value, needed = found["distinct_prompts"], max(1, options.minimum)
    result = Result.PASS if value >= needed else Result.INCONCLUSIVE
    note = f"{count(int(value), 'prompt')} tell candidate from champion"
    if result is Result.INCONCLUSIVE:
        note += f", {count(needed)} needed: nothing would prove that a target serves it"
    claim = Claim("distinct prompts", result, int(value), value, limit=float(needed), note=note)
    return verdict("proof", VERSION, [claim])
