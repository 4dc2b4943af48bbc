"""Budget: the candidate costs no more to serve than the policy allows, by itself and against the champion.

Owns: limits of latency, size, memory and throughput. Knows nothing of machines. Called by `policies.gates.judge_all`.
Reads probe `budget`, set `budget`: latency_ms, size_bytes, memory_bytes, tokens_per_second.
"""

from dataclasses import dataclass

from policies.evidence import failed, paired, verdict
from policies.model import Claim, Evidence, Result, Verdict

VERSION = 1

LOOSER = {
    **dict.fromkeys(("latency_ratio", "size_ratio", "memory_ratio"), "higher"),
    **dict.fromkeys(("latency_ms", "size_bytes", "memory_bytes"), "higher or none"),
    **dict.fromkeys(("tokens_ratio", "tokens_per_second"), "lower"),
}
ITEMS = ("latency_ms", "memory_bytes", "size_bytes", "tokens_per_second")


@dataclass(frozen=True, slots=True)
class Options:
    """`latency_ratio`, `size_ratio`, `memory_ratio`: highest of candidate over champion; `tokens_ratio`: lowest.

    `latency_ms`, `size_bytes`, `memory_bytes`: highest by themselves, `tokens_per_second`: lowest; 0 means no limit.
    """

    latency_ratio: float = 1.5
    size_ratio: float = 1.5
    memory_ratio: float = 1.5
    tokens_ratio: float = 0.5
    latency_ms: float = 0.0
    size_bytes: float = 0.0
    memory_bytes: float = 0.0
    tokens_per_second: float = 0.0


def judge(candidate: Evidence, champion: Evidence, anchor: Evidence | None, options: Options) -> Verdict:  # noqa: ARG001
    """Pass when every figure was measured for both versions and lies within its limits."""
    pairs, problem = paired(candidate, champion, "budget", bounded=False, planned=False)
    if problem:
        return failed("budget", VERSION, problem)
    found = {pair.item: pair for pair in pairs if pair.set == "budget"}
    missing = [item for item in ITEMS if item not in found]
    if missing:
        return failed("budget", VERSION, f"not measured: {', '.join(missing)}")
    claims = []
    for item in ITEMS:
        ours, theirs = found[item].candidate, found[item].champion
        if ours < 0 or theirs < 0:
            return failed("budget", VERSION, f"{item} is negative")
        claims.append(_claim(item, ours, theirs, options))
    verdicts = verdict("budget", VERSION, claims)
    if verdicts.result is not Result.PASS:
        return verdicts
    summary = ", ".join(f"{claim.note}" for claim in claims)
    return Verdict("budget", VERSION, Result.PASS, summary, tuple(claims))


def _claim(item: str, ours: float, theirs: float, options: Options) -> Claim:
    ratio = getattr(options, f"{item.partition('_')[0]}_ratio")
    own = getattr(options, item)
    if item == "tokens_per_second":
        limit = max(ratio * theirs, own)
        fine = ours >= limit
    else:
        limit = min(ratio * theirs, own) if own else ratio * theirs
        fine = ours <= limit
    change = f" ({100 * (ours / theirs - 1):+.0f} %)" if theirs else ""
    note = f"{item} {ours:,.4g}{change}"
    if not fine:
        note += f", limit {limit:,.4g}"
    return Claim(item, Result.PASS if fine else Result.FAIL, 1, ours, limit=limit, note=note)
