"""Retention: old abilities are still there, and the candidate still speaks much as the champion does.

Owns: the margin on the anchor suites and the budget of divergence. Knows nothing of models or prompts. Called by
`policies.gates.judge_all`. Reads probes `retention` (scores) and `retention_logprob` (nats a token, champion's answer).
"""

from dataclasses import dataclass

from policies.evidence import Pair, failed, paired, verdict
from policies.gates.regression import listing, margin_claim, slice_claims
from policies.model import Claim, Evidence, Result, Verdict
from policies.stats import mean_interval

VERSION = 3
LOOSER = {
    "margin": "higher",
    "kl_budget": "higher",
    "error_rate": "higher",
    "harm_error_rate": "lower",
    "enabled": "off",
}


@dataclass(frozen=True, slots=True)
class Options:
    """`margin`: largest loss of score on the anchor suites that still counts as equal, in points of 1.

    `kl_budget`: highest mean KL(champion ‖ candidate), nats a token. `error_rate`: one-sided error of each claim,
    over all candidates that meet the set. `harm_error_rate`: of "this slice is harmed", all slices together.
    `enabled`: false switches the gate off, which the evidence then says.
    """

    margin: float = 0.02
    kl_budget: float = 0.1
    error_rate: float = 0.05
    harm_error_rate: float = 0.05
    enabled: bool = True


def judge(candidate: Evidence, champion: Evidence, anchor: Evidence | None, options: Options) -> Verdict:  # noqa: ARG001
    """Pass when the loss on the anchor suites is within the margin and the upper bound of the KL within its budget.

    KL by mean(champion - candidate) of the log-probability of the champion's own answers; bound by Student's t.
    """
    pairs, problem = paired(candidate, champion, "retention")
    if problem:
        return failed("retention", VERSION, problem)
    spoken, problem = paired(candidate, champion, "retention_logprob", bounded=False)
    if problem:
        return failed("retention", VERSION, problem)
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.set, []).append(pair)
    claims = [_divergence(spoken, options), margin_claim("champion", pairs, options.margin, options.error_rate)]
    return listing(verdict("retention", VERSION, claims + slice_claims(groups, options.harm_error_rate)))


def _divergence(pairs: tuple[Pair, ...], options: Options) -> Claim:
    losses = [pair.champion - pair.candidate for pair in pairs]
    low, high = mean_interval(losses, 2 * options.error_rate)
    mean = sum(losses) / len(losses)
    result = Result.PASS if high <= options.kl_budget else Result.INCONCLUSIVE
    if low > options.kl_budget:
        result = Result.FAIL
    note = f"KL {mean:.3g} nat [{low:.3g}, {high:.3g}], budget {options.kl_budget:g}"
    return Claim("kl", result, len(losses), mean, low, high, options.kl_budget, 2 * options.error_rate, note)
