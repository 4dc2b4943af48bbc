"""The contract of a gate, and `judge_all`: every gate is asked, none is skipped, the worst answer counts.

A gate is one file here: `VERSION`, a frozen `Options`, `LOOSER` (which change of an option lets more through, for
`policies.loosening`), `judge(candidate, champion, anchor, options) -> Verdict`.
Owns: the whitelist, the order, and that a missing, raising or empty gate refuses. Refuses to know how anything was
measured. Called by `daemon.judging` (after an evaluation) and `daemon.audit.replay`.

An evaluation asks the accepted sets whole, so that a verdict is given where the items end: `inconclusive` rejects, and
only a larger set (a new version) can say more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

from policies import ledger
from policies.errors import Misconfigured
from policies.evidence import failed, read
from policies.ledger import Share
from policies.model import Evidence, Result, SetView, Verdict
from policies.words import count

NAMES = ("safety", "regression", "retention", "improvement", "budget", "data", "proof")
TEACHER_NAMES = ("safety", "regression", "retention", "data")
NOTHING_SPENT: Mapping[str, Share] = MappingProxyType({})
OPTIONAL = frozenset({"regression", "retention", "improvement"})
PROBES = {"goldens": "goldens", "safety": "safety", "anchor": "retention"}
ROLES = {"regression": "goldens", "safety": "safety", "retention": "anchor"}


def load(name: str) -> ModuleType:
    """The module of a gate by its name in a policy.

    Raises: Misconfigured for a name that is none of ours.
    """
    if name not in NAMES:
        raise Misconfigured(f"there is no gate {name!r}", hint=f"the gates are {', '.join(NAMES)}")
    return import_module(f"policies.gates.{name}")


def for_step(step: str) -> tuple[str, ...]:
    """The gates that a step's version must pass: a teacher is never served, so it meets fewer."""
    return TEACHER_NAMES if step == "teacher" else NAMES


def enabled(policy_gates: Mapping[str, Any], name: str) -> bool:
    """Whether a gate is asked: only the optional ones can be switched off, and only in so many words."""
    return name not in OPTIONAL or getattr(policy_gates.get(name), "enabled", True) is not False


def judge_all(
    candidate: Evidence,
    champion: Evidence,
    anchor: Evidence | None,
    policy_gates: Mapping[str, Any],
    *,
    step: str = "candidate",
    sets: Iterable[SetView] = (),
    shares: Mapping[str, Share] = NOTHING_SPENT,
) -> tuple[Verdict, ...]:
    """One verdict for every gate of `step`, in a fixed order, whatever the others said.

    `policy_gates`: each gate's `Options`. `sets`: the accepted sets, each of which must have been measured whole.
    `shares`: what the ledger leaves this candidate of each gate's error rate; a gate that isn't named has all of it.
    """
    known, evidence = tuple(sets), (candidate, champion, anchor)
    return tuple(_charged(name, evidence, policy_gates, known, shares.get(name)) for name in for_step(step))


def _charged(
    name: str,
    evidence: tuple[Evidence, Evidence, Evidence | None],
    policy_gates: Mapping[str, Any],
    sets: tuple[SetView, ...],
    share: Share | None,
) -> Verdict:
    """The gate's verdict at the error rate that `share` leaves of the policy's, with what was spent as a claim of it."""
    options = policy_gates.get(name)
    if share is None or options is None or not enabled(policy_gates, name) or not hasattr(options, "error_rate"):
        return _judge(name, evidence, policy_gates, sets)
    if share.share <= 0:
        spent = f"{count(share.number - 1, 'candidate')} spent the whole error rate on these items: new ones are needed"
        return failed(name, load(name).VERSION, spent)
    found = _judge(name, evidence, ledger.charged(policy_gates, {name: share}), sets)
    return replace(found, claims=(*found.claims, ledger.claim(share, options.error_rate)))


def _judge(
    name: str,
    evidence: tuple[Evidence, Evidence, Evidence | None],
    policy_gates: Mapping[str, Any],
    sets: tuple[SetView, ...],
) -> Verdict:
    gate = load(name)
    if not enabled(policy_gates, name):
        return Verdict(name, gate.VERSION, Result.PASS, "switched off by the policy")
    options = policy_gates.get(name)
    if not isinstance(options, gate.Options):
        return failed(name, gate.VERSION, f"missing: the policy has no [gates.{name}]")
    problem = _unmeasured(name, evidence[0], sets)
    if problem:
        return failed(name, gate.VERSION, problem)
    try:
        answer = gate.judge(*evidence, options)
    except Exception as error:  # noqa: BLE001 - whatever a gate raises, its answer is no
        return failed(name, gate.VERSION, f"the gate broke: {type(error).__name__}: {error}")
    if not isinstance(answer, Verdict) or answer.gate != name:
        return failed(name, gate.VERSION, "the gate gave no verdict of its own")
    return answer


def _unmeasured(name: str, candidate: Evidence, sets: tuple[SetView, ...]) -> str:
    for view in sets:
        if view.role != ROLES.get(name):
            continue
        rows, problem = read(candidate, PROBES[view.role])
        n = sum(set_name == view.name for set_name, _ in rows)
        if problem or n != view.items:
            return problem or f"{n} of {view.items} accepted items of {view.name} were measured"
    return ""


def worst(first: Iterable[Verdict], second: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """The stricter of two judgements, gate by gate; a gate that only one of them asked is kept."""
    found: dict[str, Verdict] = {}
    for verdict in (*first, *second):
        old = found.get(verdict.gate)
        if old is None or verdict.result.severity > old.result.severity:
            found[verdict.gate] = verdict
    return tuple(found[name] for name in sorted(found, key=lambda n: NAMES.index(n) if n in NAMES else len(NAMES)))
