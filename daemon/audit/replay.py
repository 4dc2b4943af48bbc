"""Replay: every decision and every verdict of the past is made again from what was recorded, and compared.

Owns: the comparison, and that nothing is skipped: what can't be made again is listed with the reason. Refuses to read a
policy's text (the caller says how) and to change anything. Called by `learnctl audit replay`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from daemon import codec, ledger
from daemon.ledger import Entry
from daemon.policyfile import parse_policy
from daemon.tables import Cycle, Decision, MeasurementRow, PolicyRow, VerdictRow
from feedback.db import read
from policies import gates
from policies.decide import decide
from policies.errors import LearndError, Refused
from policies.model import Evidence, Measurement, Verdict
from policies.policy import Policy

Parse = Callable[[str, str], Policy]
BATCH = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that didn't come out as it was recorded. `what`: decision or verdict; `id` of its row."""

    what: str
    id: int
    was: str
    now: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it: of `decisions` and `verdicts` so many came out the same; the others are listed, none skipped."""

    decisions: int
    same: int
    verdicts: int
    verdicts_same: int
    different: tuple[Finding, ...]
    unreplayable: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything could be made again and came out the same."""
        return not self.different and not self.unreplayable


@dataclass(frozen=True, slots=True)
class _Judged:
    """Rows of one judgement, and what they were judged on."""

    rows: tuple[VerdictRow, ...]
    cycle: Cycle | None
    measurements: tuple[Measurement, ...]
    spent: tuple[Entry, ...] = ()


def replay(engine: Engine, parse: Parse = parse_policy) -> Replay:
    """Make every stored decision and verdict again, from its snapshot or measurements and its policy by the hash.

    `parse(text, source)` reads a policy's canonical text; `source` is named in its messages. A decision is the same
    when its whole action is (reason included), a verdict when its result is.
    Raises: Transient where the database is away.
    """
    return read(engine, lambda session: _replay(session, _Policies(session, parse)))


def judge_again(
    judged: Sequence[Measurement],
    row: VerdictRow,
    cycle: Cycle,
    policies: Sequence[Policy],
    spent: Sequence[Entry] = (),
) -> list[Verdict]:
    """The verdicts on the version of `row` under each policy, the stricter of them gate by gate.

    `spent`: what the evaluation took from the ledger.
    """

    def of(version: str) -> Evidence:
        return Evidence(version, tuple(each for each in judged if each.version == version))

    anchor = of(row.anchor) if row.anchor and row.anchor != row.champion else None
    step = "teacher" if row.version == cycle.teacher else "candidate"
    found: tuple[Verdict, ...] = ()
    known: dict[str, Any] = {"step": step, "sets": ledger.sets(spent), "shares": ledger.shares(spent)}
    for policy in policies:
        again = gates.judge_all(of(row.version), of(row.champion), anchor, policy.gates, **known)
        found = gates.worst(found, again)
    return list(found)


class _Policies:
    """Policies by hash, each read once; a missing or edited text makes what was decided under it unreplayable."""

    def __init__(self, session: Session, parse: Parse) -> None:
        self._session, self._parse = session, parse
        self._known: dict[str, Policy] = {}

    def named(self, digest: str) -> Policy:
        """The policy with this hash. Raises: Refused, or what `parse` raises."""
        if digest not in self._known:
            row = self._session.get(PolicyRow, digest)
            if row is None:
                raise Refused(f"the policy {digest[:12]} was not kept")
            if hashlib.sha256(row.text.encode()).hexdigest() != digest:
                raise Refused(f"the text of policy {digest[:12]} does not have its hash")
            # A release that knows more settings hashes the same text to another value: the recorded one counts.
            self._known[digest] = replace(self._parse(row.text, f"policy {digest[:12]}"), hash=digest)
        return self._known[digest]


def _replay(session: Session, policies: _Policies) -> Replay:
    different: list[Finding] = []
    unreplayable: list[Finding] = []
    decisions = same = verdicts = verdicts_same = 0
    query = select(Decision).order_by(Decision.id).execution_options(yield_per=BATCH)
    with closing(session.scalars(query)) as rows:
        for row in rows:
            decisions += 1
            finding, readable = _decide_again(row, policies)
            same += finding is None
            if finding:
                (different if readable else unreplayable).append(finding)
    for judged in judgements(session):
        alike, changed, unread = _judge_again(judged, policies)
        verdicts += alike + len(changed) + len(unread)
        verdicts_same += alike
        different += changed
        unreplayable += unread
    return Replay(decisions, same, verdicts, verdicts_same, tuple(different), tuple(unreplayable))


def _decide_again(row: Decision, policies: _Policies) -> tuple[Finding | None, bool]:
    """What differs (None: nothing), and whether the decision could be made again at all."""
    was = f"{row.action}: {row.reason}"
    try:
        snapshot = codec.snapshot_from_json(row.snapshot)
        codec.action_from_json(row.body)
        action = decide(snapshot, policies.named(row.policy_hash))
    except LearndError as error:
        return Finding("decision", row.id, was, str(error)), False
    if codec.canonical(codec.action_to_json(action)) == codec.canonical(row.body) and row.reason == action.reason:
        return None, True
    return Finding("decision", row.id, was, f"{type(action).__name__}: {action.reason}"), True


def judgements(session: Session) -> Iterator[_Judged]:
    """Stored verdicts in groups that were judged together, with the measurements they were judged on."""
    keys = (VerdictRow.evaluation, VerdictRow.version, VerdictRow.policy_hash)
    for evaluation, version, policy in session.execute(select(*keys).distinct().order_by(*keys)).all():
        rows = session.scalars(
            select(VerdictRow)
            .where(VerdictRow.evaluation == evaluation, VerdictRow.version == version, VerdictRow.policy_hash == policy)
            .order_by(VerdictRow.id)
        ).all()
        found = session.scalars(
            select(MeasurementRow).where(MeasurementRow.evaluation == evaluation).order_by(MeasurementRow.id)
        )
        measurements = tuple(
            Measurement(r.probe, r.set, r.item, r.slice, r.version, r.value, r.seed, r.environment) for r in found
        )
        spent = ledger.of_evaluation(session, evaluation)
        yield _Judged(tuple(rows), session.get(Cycle, rows[0].cycle), measurements, spent)


def _judge_again(judged: _Judged, policies: _Policies) -> tuple[int, list[Finding], list[Finding]]:
    """How many verdicts came out the same, which differ, and which can't be judged again."""
    first = judged.rows[0]
    try:
        if judged.cycle is None:
            raise Refused(f"the cycle {first.cycle} is gone")
        if not judged.measurements:
            raise Refused(f"the measurements of {first.evaluation} are gone")
        hashes = dict.fromkeys((first.policy_hash, judged.cycle.policy_hash))
        under = [policies.named(each) for each in hashes]
        again = {each.gate: each for each in judge_again(judged.measurements, first, judged.cycle, under, judged.spent)}
        stored = {row.gate: codec.verdict_from_row(row) for row in judged.rows}
    except LearndError as error:
        return 0, [], [_verdict_finding(row, str(error)) for row in judged.rows]
    apart = [
        row for row in judged.rows if row.gate not in again or again[row.gate].result is not stored[row.gate].result
    ]
    # A gate that judges by other rules now says nothing about what it said then.
    other = [row for row in apart if row.gate in again and again[row.gate].gate_version != row.gate_version]
    unread = [_verdict_finding(row, f"version {row.gate_version} of the gate is gone") for row in other]
    findings = [_verdict_finding(row, _said(again.get(row.gate))) for row in apart if row not in other]
    alike = len(judged.rows) - len(apart)
    # A gate that was never stored is a verdict that somebody removed.
    findings += [
        Finding("verdict", first.id, f"{gate} of {first.version}: not stored", _said(again[gate]))
        for gate in again
        if gate not in stored
    ]
    return alike, findings, unread


def _verdict_finding(row: VerdictRow, now: str) -> Finding:
    return Finding("verdict", row.id, f"{row.gate} of {row.version}: {row.result} ({row.reason})", now)


def _said(verdict: Verdict | None) -> str:
    return f"{verdict.result.value} ({verdict.reason})" if verdict else "not judged"
