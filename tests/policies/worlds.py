"""Builders of plain values for the tests of the core: a slot in good order, which a test then changes in one respect."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from policies import gates
from policies.gates import budget, data, improvement, proof, regression, retention, safety
from policies.model import (
    CommandView,
    CycleView,
    DriftColumn,
    DriftReport,
    Evidence,
    JobView,
    Measurement,
    Phase,
    Result,
    SetView,
    SignalCounts,
    Snapshot,
    Verdict,
    VersionView,
    Votes,
    WatchView,
)
from policies.policy import Policy

NOW = 1_000_000.0
HOUR = 3600.0
CHAMPION = VersionView("bot@champion", "adapter", "bot@base", "lora", depth=1)
CANDIDATE = VersionView("bot@candidate", "adapter", "bot@base", "lora", depth=2)
OPTIONS: dict[str, Any] = {
    "safety": safety.Options(limits={"harmful": 0.1, "benign": 0.1}),
    "regression": regression.Options(margin=0.1, cumulative_margin=0.15),
    "retention": retention.Options(margin=0.1),
    "improvement": improvement.Options(),
    "budget": budget.Options(),
    "data": data.Options(),
    "proof": proof.Options(),
}
POLICY = Policy("bot", gates=OPTIONS, hash="p1")
SETS = (
    SetView("main", "goldens", 400, "1"),
    SetView("harm", "safety", 300, "1"),
    SetView("old", "anchor", 200, "1"),
)
CYCLE = CycleView(1, "lora", "candidate", (100, 900), NOW - HOUR, "p1", 7, "volume", CANDIDATE.name)


def slot(phase: Phase = Phase.IDLE, **changes: Any) -> Snapshot:
    """A slot that has all it needs and nothing to do."""
    plain = Snapshot(
        now=NOW,
        deployment="bot",
        tenant="",
        phase=phase,
        phase_since=NOW - HOUR,
        head=1000,
        champion=CHAMPION,
        predecessor="bot@before",
        consent_set=True,
        sets=SETS,
        counts=SignalCounts(corrections=200, positives=212, judge_references=60),
        judge_total=300,
        seed=11,
    )
    return replace(plain, **changes)


def judged(phase: Phase = Phase.EVALUATING, **changes: Any) -> Snapshot:
    """A slot whose candidate passed every gate under the present policy."""
    whole = {
        "cycle": CYCLE,
        "candidate": CANDIDATE,
        "verdicts": verdicts(),
        "verdicts_complete": True,
        "judged_under": POLICY.hash,
    }
    return slot(phase, **{**whole, **changes})


def verdicts(**results: Result) -> tuple[Verdict, ...]:
    """One verdict a gate, passing where nothing else is said."""
    return tuple(Verdict(name, 1, results.get(name, Result.PASS), f"{name} says so") for name in gates.NAMES)


def command(verb: str, version: str = "", id: int = 5) -> CommandView:
    return CommandView(id, verb, "ada", "because", version, NOW)


def job(state: str, kind: str = "train", **changes: Any) -> JobView:
    return replace(JobView("k", kind, state, started=NOW - 60, deadline=NOW + HOUR), **changes)


def drift(kind: str = "inputs", current: tuple[int, int] = (500, 1000), **changes: Any) -> DriftReport:
    column = DriftColumn("topic", "psi", 0.4, 0.2, True, 500, 500)
    report = DriftReport("columns", True, True, kind, "psi of topic is 0.4", (column,), (0, 400), current, NOW - 60)
    return replace(report, **changes)


def votes(good: int, n: int, before_good: int = 270, before_n: int = 300, **changes: Any) -> WatchView:
    view = WatchView(NOW - HOUR, Votes(CANDIDATE.name, n, good), Votes(CHAMPION.name, before_n, before_good))
    return replace(view, **changes)


def rows(
    probe: str, set_name: str, values: Sequence[float], version: str, slice_name: str = "all"
) -> list[Measurement]:
    return [
        Measurement(probe, set_name, f"i{n:03}", slice_name, version, float(value)) for n, value in enumerate(values)
    ]


def plan(version: str, **items: int) -> list[Measurement]:
    return [Measurement("plan", name, "items", "", version, float(n)) for name, n in items.items()]


def evidence(version: str, *, score: Sequence[float] = (1.0,) * 60, **changes: Sequence[float]) -> Evidence:
    """Everything that all gates ask for, of a version that does well; `changes` replaces a probe's values.

    Keys: goldens, harmful, benign, retention, logprob, judge, latency, proof, and any count of the data probe;
    judge_error: of the first goldens, which a judge scored, on four labelled answers each.
    """
    harmful, benign = changes.get("harmful", (1.0,) * 40), changes.get("benign", (1.0,) * 40)
    goldens, old = changes.get("goldens", score), changes.get("retention", (1.0,) * 40)
    logprob, judge = changes.get("logprob", (-0.5, -0.6) * (len(old) // 2)), changes.get("judge", (1.0,) * 30)
    kinds = [replace(row, item=f"b{row.item}") for row in rows("safety", "harm", benign, version, "benign")]
    found = [
        *rows("goldens", "main", goldens, version),
        *rows("safety", "harm", harmful, version, "harmful"),
        *kinds,
        *rows("retention", "old", old, version),
        *rows("retention_logprob", "old", logprob, version),
        *rows("improvement", "judge", judge, version),
        *plan(version, main=len(goldens), harm=len(harmful) + len(benign), old=len(old), judge=len(judge)),
    ]
    erring = changes.get("judge_error", ())
    if erring:
        found += rows("goldens_judge_error", "main", erring, version)
        found += rows("goldens_judge_labels", "main", (4.0,) * len(erring), version)
        found.append(Measurement("plan", "main", "judged", "", version, float(len(erring))))
    costs = {"latency_ms": 10.0, "memory_bytes": 1e6, "size_bytes": 1e6, "tokens_per_second": 100.0}
    costs["latency_ms"] = changes.get("latency", (10.0,))[0]
    found += [Measurement("budget", "budget", item, "", version, value) for item, value in costs.items()]
    for item in (*data.FORBIDDEN, "records"):
        value = changes.get(item, (500.0 if item == "records" else 0.0,))[0]
        found.append(Measurement("data", "ancestry", item, "", version, value))
    distinct = changes.get("proof", (9.0,))[0]
    found.append(Measurement("proof", "proof", "distinct_prompts", "", version, distinct))
    return Evidence(version, tuple(found))


def good() -> tuple[Evidence, Evidence]:
    """(candidate, champion): the candidate passes every gate."""
    return evidence("new"), evidence("old", judge=(0.0,) * 15 + (1.0,) * 15)
