"""From a trained version to stored verdicts: the evaluation job's inputs, its measurements, the gates' answers.

Owns: which versions and sets are measured, and that verdicts are stored together. Refuses to judge (`policies.gates`) and
to measure (`daemon.probes`). Called by `daemon.act`.
"""

import json
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from daemon import ancestry, codec, costs, goldens, learning, ledger
from daemon.answer import Answer
from daemon.context import Context
from daemon.jobs import JOB, JobSpec, read_json
from daemon.ledger import Entry
from daemon.study import PROBE_OF, TASK
from daemon.tables import Cycle, MeasurementRow, Slot, VerdictRow, VersionRow
from feedback import db, store
from feedback.near import normalise, prompt_text
from policies import gates
from policies.errors import Corrupt
from policies.model import Evidence, Measurement, Outcome, Verdict


def begin(context: Context, slot: Slot, cycle: Cycle) -> Answer:
    """Publish what the training job made and start its evaluation."""
    name, result = learning.publish(context, slot, cycle)
    now = context.clock.now()
    evidence = {k: v for k, v in result.items() if k not in ("kind", "engine", "base", "depth")}
    if cycle.step == learning.TEACHER:
        evidence["source"] = context.policy.method.teacher
    row = learning.version_row(context, name, cycle, evidence=evidence, now=now)
    key = f"{cycle.job}.eval"
    spent = costs.taken(context, cycle.job)
    start(context, slot, cycle, name, key)
    values = {c.key: getattr(row, c.key) for c in VersionRow.__table__.columns}

    def apply(session: Session, _slot: Slot, kept: Cycle | None) -> None:
        assert kept is not None
        learning.ensure_version(session, VersionRow(**values))
        session.flush()
        costs.write(session, context, kept, name, spent)
        if kept.step == learning.TEACHER:
            kept.teacher = name
        else:
            kept.candidate = name
        kept.spent_seconds += float(result.get("seconds", 0.0))
        kept.job, kept.evaluation, kept.losses = key, key, 0

    facts = {"version": name, "parent": slot.champion, "dataset": cycle.dataset, "job": key}
    return Answer(Outcome.EVALUATION_STARTED, facts=facts, apply=apply)


def start(context: Context, slot: Slot, cycle: Cycle, version: str, key: str) -> None:
    """Start the evaluation job of `version` against champion and anchor, on the accepted sets and the judge records."""
    folder = context.state / "evaluations" / key
    folder.mkdir(parents=True, exist_ok=True)

    def export(session: Session) -> tuple[list[dict[str, Any]], str]:
        sets = goldens.write_sets(session, slot.deployment, folder)
        items = store.judge_items(
            session, slot.deployment, slot.tenant, cycle.window_first, cycle.window_last, learning.JUDGE_LIMIT
        )
        path = folder / "judge.jsonl"
        lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in _each_once(items))
        path.write_text(lines, encoding="utf-8")
        return sets, str(path)

    sets, judge = db.read(context.engine, export)
    anchor = slot.anchor if slot.anchor and slot.anchor != slot.champion else ""
    context.jobs.start(
        JobSpec(
            key=key,
            kind="evaluate",
            entry="daemon.evaluation:run",
            inputs={
                "versions": {
                    "candidate": context.registry.ref(version).to_json(),
                    "champion": context.registry.ref(slot.champion).to_json(),
                    "anchor": context.registry.ref(anchor).to_json() if anchor else None,
                },
                "sets": sets,
                "judge": judge,
                "seed": cycle.seed,
                "options": {name: dict(table) for name, table in context.policy.probes.items()},
                "max_new_tokens": context.deployment.max_new_tokens,
                "cache": str(context.state / "cache" / "evaluations"),
            },
            seed=cycle.seed,
            deadline=context.clock.now() + context.policy.method.deadline_hours * 3600,
            device=context.policy.method.device,
        )
    )


def restart(context: Context, slot: Slot, cycle: Cycle) -> Answer:
    """Start a lost evaluation again under its own key."""
    start(context, slot, cycle, subject(cycle), cycle.evaluation)

    def apply(_session: Session, _slot: Slot, kept: Cycle | None) -> None:
        assert kept is not None
        kept.losses += 1

    return Answer(Outcome.EVALUATION_STARTED, note="the evaluation was lost and starts again", apply=apply)


def subject(cycle: Cycle) -> str:
    """The version that the cycle's present step is about."""
    return cycle.teacher if cycle.step == learning.TEACHER else cycle.candidate


def collect(context: Context, slot: Slot, cycle: Cycle) -> Answer:
    """Store the finished evaluation's measurements with the ancestry's, and every gate's verdict on them."""
    path = context.jobs.folder(cycle.evaluation) / "measurements.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    seconds = float(context.jobs.result(cycle.evaluation).get("seconds", 0.0))
    version = subject(cycle)

    def lineage(session: Session) -> list[dict[str, Any]]:
        found = ancestry.measurements(session, deployment=slot.deployment, tenant=slot.tenant, version=version)
        return [{**codec.to_json(m), "said": ""} for m in found]

    rows += db.read(context.engine, lineage)
    tasks = {row["set"] for row in rows if row["probe"] == PROBE_OF[TASK]}
    spent, cost = _spent(context, slot, cycle, tasks), costs.taken(context, cycle.evaluation)
    verdicts = judge(context, slot, cycle, [_measurement(row) for row in rows], spent)

    def apply(session: Session, _slot: Slot, kept: Cycle | None) -> None:
        assert kept is not None
        kept.spent_seconds += seconds
        session.execute(delete(MeasurementRow).where(MeasurementRow.evaluation == cycle.evaluation))
        session.execute(insert(MeasurementRow), [{**row, "evaluation": cycle.evaluation} for row in rows])
        costs.write(session, context, kept, version, cost)
        ledger.write(session, slot, cycle, version, spent, context.clock.now())
        _store(session, context, slot, cycle, verdicts)

    return Answer(Outcome.JUDGED, facts=_facts(version, verdicts), apply=apply)


def rejudge(context: Context, slot: Slot, cycle: Cycle) -> Answer:
    """Judge the stored measurements again, since the policy has changed since: the stricter of both counts."""
    stored = db.read(context.engine, lambda session: measurements_of(session, cycle.evaluation))
    spent = db.read(context.engine, lambda session: ledger.of_evaluation(session, cycle.evaluation))
    verdicts = judge(context, slot, cycle, stored, spent)

    def apply(session: Session, _slot: Slot, _cycle: Cycle | None) -> None:
        _store(session, context, slot, cycle, verdicts)

    return Answer(Outcome.JUDGED, note="judged again under the new policy", facts=_facts("", verdicts), apply=apply)


def _spent(context: Context, slot: Slot, cycle: Cycle, tasks: set[str]) -> tuple[Entry, ...]:
    """What the ledger leaves of each gate's error rate for the items that the evaluation was started with."""
    job = read_json(context.jobs.folder(cycle.evaluation) / JOB) or {"inputs": {"sets": []}}
    sets = job["inputs"]["sets"]
    return db.read(
        context.engine, lambda session: ledger.entries(session, slot, cycle, sets, context.policy, cycle.step, tasks)
    )


def _each_once(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest record of every question: copies flip together, and would count as so many proofs."""
    newest = {normalise(prompt_text(item["messages"])): item["id"] for item in items}
    kept = set(newest.values())
    return [item for item in items if item["id"] in kept]


def judge(
    context: Context, slot: Slot, cycle: Cycle, found: list[Measurement], spent: tuple[Entry, ...]
) -> tuple[Verdict, ...]:
    """The gates' verdicts, by the stricter of the policy the cycle began under and the current one.

    `spent`: what the ledger leaves of each gate's error rate, and the accepted sets that must be measured whole.
    """
    version = subject(cycle)
    anchor = slot.anchor if slot.anchor and slot.anchor != slot.champion else ""
    candidate = Evidence(version, tuple(m for m in found if m.version == version))
    champion = Evidence(slot.champion, tuple(m for m in found if m.version == slot.champion))
    best = Evidence(anchor, tuple(m for m in found if m.version == anchor)) if anchor else None
    known: dict[str, Any] = {"step": cycle.step, "sets": ledger.sets(spent), "shares": ledger.shares(spent)}
    current = gates.judge_all(candidate, champion, best, context.policy.gates, **known)
    if cycle.policy_hash == context.policy.hash:
        return current
    begun = context.policy_of(cycle.policy_hash)
    return gates.worst(current, gates.judge_all(candidate, champion, best, begun.gates, **known))


def measurements_of(session: Session, evaluation: str) -> list[Measurement]:
    """All stored measurements of one evaluation, in the order they were stored."""
    rows = session.scalars(
        select(MeasurementRow).where(MeasurementRow.evaluation == evaluation).order_by(MeasurementRow.id)
    )
    return [Measurement(r.probe, r.set, r.item, r.slice, r.version, r.value, r.seed, r.environment) for r in rows]


def distinct_prompts(context: Context, evaluation: str) -> Path:
    """The file of prompts on which candidate and champion differ, with both recorded answers.

    Raises: Corrupt where the evaluation left none although its gate passed.
    """
    path = context.jobs.folder(evaluation) / "distinct.jsonl"
    if not path.exists():
        raise Corrupt(f"the evaluation {evaluation} left no prompts to prove serving with", hint="learnctl train again")
    return path


def _store(session: Session, context: Context, slot: Slot, cycle: Cycle, verdicts: tuple[Verdict, ...]) -> None:
    session.execute(
        delete(VerdictRow).where(
            VerdictRow.evaluation == cycle.evaluation, VerdictRow.policy_hash == context.policy.hash
        )
    )
    for verdict in verdicts:
        session.add(
            VerdictRow(
                cycle=cycle.id,
                evaluation=cycle.evaluation,
                version=subject(cycle),
                champion=slot.champion,
                anchor=slot.anchor,
                gate=verdict.gate,
                gate_version=verdict.gate_version,
                result=verdict.result.value,
                reason=verdict.reason,
                claims=codec.to_json(verdict.claims),
                policy_hash=context.policy.hash,
                at=context.clock.now(),
            )
        )


def _facts(version: str, verdicts: tuple[Verdict, ...]) -> dict[str, Any]:
    return {"version": version, "verdicts": [codec.verdict_to_json(v) for v in verdicts]}


def _measurement(row: dict[str, Any]) -> Measurement:
    return Measurement(**{name: row[name] for name in Measurement.__slots__})
