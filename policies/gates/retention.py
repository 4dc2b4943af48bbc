"""Retention: old abilities are still there, and the candidate still speaks much as the champion does.

Owns: the margins on the anchor suites and on the harness's tasks, and the budget of divergence. Knows nothing of models
or prompts. Called by `policies.gates.judge_all`. Reads probes `retention` (scores), `retention_logprob` (nats a token,
champion's answer) and, where the policy names tasks, `lm_eval` (scores; a slice is a task).
"""

from dataclasses import dataclass, replace

from policies.evidence import Pair, failed, paired, verdict
from policies.gates.regression import listing, margin_claim, slice_claims
from policies.model import Claim, Evidence, Result, Verdict
from policies.stats import mean_interval

VERSION = 4
TASKS = "lm_eval"
LOOSER = {
    "margin": "higher",
    "kl_budget": "higher",
    "error_rate": "higher",
    "harm_error_rate": "lower",
    "required": "fewer",
    "enabled": "off",
}


@dataclass(frozen=True, slots=True)
class Options:
    """`margin`: largest loss of score that still counts as equal, points of 1, on the anchor suites and on all tasks.

    `kl_budget`: highest mean KL(champion ‖ candidate), nats a token. `error_rate`: one-sided error of each claim,
    over all candidates that meet the set. `harm_error_rate`: of "this slice is harmed", all slices together.
    `required`: tasks of the probe `lm_eval` that refuse where they weren't measured.
    `enabled`: false switches the gate off, which the evidence then says.
    """

    margin: float = 0.02
    kl_budget: float = 0.1
    error_rate: float = 0.05
    harm_error_rate: float = 0.05
    required: tuple[str, ...] = ()
    enabled: bool = True


def judge(candidate: Evidence, champion: Evidence, anchor: Evidence | None, options: Options) -> Verdict:  # noqa: ARG001
    """Pass when the losses on anchor suites and tasks are within the margin and the KL's upper bound within its budget.

    Tasks have a claim of their own: many documents that nothing changed must not hide a loss on the anchor suites.

    KL by mean(champion - candidate) of the log-probability of the champion's own answers; bound by Student's t.
    """
    pairs, problem = paired(candidate, champion, "retention")
    if problem:
        return failed("retention", VERSION, problem)
    spoken, problem = paired(candidate, champion, "retention_logprob", bounded=False)
    if problem:
        return failed("retention", VERSION, problem)
    tasks, problem = _tasks(candidate, champion, options.required)
    if problem:
        return failed("retention", VERSION, problem)
    groups: dict[str, list[Pair]] = {}
    for pair in (*pairs, *tasks):
        groups.setdefault(pair.set, []).append(pair)
    claims = [_divergence(spoken, options), margin_claim("champion", pairs, options.margin, options.error_rate)]
    if tasks:
        found = margin_claim("champion", tasks, options.margin, options.error_rate)
        claims.append(replace(found, name="margin on tasks", note=f"tasks: {found.note}"))
    return listing(verdict("retention", VERSION, claims + slice_claims(groups, options.harm_error_rate)))


def _tasks(candidate: Evidence, champion: Evidence, required: tuple[str, ...]) -> tuple[tuple[Pair, ...], str]:
    """The documents of the harness's tasks and what is wrong with them; none, where none is measured or required."""
    if not any(each.by_probe.get(TASKS) for each in (candidate, champion)):
        return (), f"no document of the task {required[0]} was measured" if required else ""
    pairs, problem = paired(candidate, champion, TASKS)
    missing = sorted(set(required) - {pair.slice for pair in pairs})
    if not problem and missing:
        problem = f"no document of the task {', '.join(missing)} was measured"
    return pairs, problem


def _divergence(pairs: tuple[Pair, ...], options: Options) -> Claim:
    losses = [pair.champion - pair.candidate for pair in pairs]
    low, high = mean_interval(losses, 2 * options.error_rate)
    mean = sum(losses) / len(losses)
    result = Result.PASS if high <= options.kl_budget else Result.INCONCLUSIVE
    if low > options.kl_budget:
        result = Result.FAIL
    note = f"KL {mean:.3g} nat [{low:.3g}, {high:.3g}], budget {options.kl_budget:g}"
    return Claim("kl", result, len(losses), mean, low, high, options.kl_budget, 2 * options.error_rate, note)
