"""Looking for drift: cheap statistics in the loop, Evidently's report in a job when they trip, and nightly.

Owns: when a look is due and where its report goes. Refuses to decide whether a drift matters (`policies.triggers`) and to
compute one (`feedback.drift`). Called by `daemon.loop` before every decision.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon import baselines, clock, codec, costs, drifting
from daemon.audit import log as audit
from daemon.context import Context
from daemon.jobs import JobSpec
from daemon.tables import Baseline, DriftRow, Slot
from feedback import db, drift, sketch, store, windows
from feedback.windows import Window
from policies.errors import Corrupt
from policies.model import DriftReport
from policies.policy import Drift
from policies.triggers import false_alarm_chance

EVIDENCE_SECONDS = 1800.0


def look(context: Context, slot_id: int) -> None:
    """One look, if one is due: cheap statistics, and the evidence job's start or collection."""
    key = db.transact(context.engine, lambda session: _cheap(session, context, session.get_one(Slot, slot_id)))
    if not key:
        return
    found = context.jobs.find(key)
    if found.state == "absent":
        spec = db.read(context.engine, lambda session: _spec(session, context, session.get_one(Slot, slot_id), key))
        context.jobs.start(spec)
    elif found.state in ("done", "failed"):
        db.transact(context.engine, lambda session: _collect(session, context, slot_id, key, found.error))


def _cheap(session: Session, context: Context, slot: Slot) -> str:
    """Measure on the sketches where a look is due; the key of the evidence job, if one is open or asked for."""
    if slot.evidence_job:
        return slot.evidence_job
    policy, now = context.policy.drift, context.clock.now()
    last = _newest(session, slot, policy.cheap)
    reference = _reference(session, context, slot)
    if reference is None:
        return ""
    seconds = now - (last.at if last else reference.at)
    seen = int(last.report["current"][1]) if last else reference.last
    if seconds <= 0 or seconds < policy.every_seconds or store.head(session) - seen < policy.block:
        return _evidence_due(session, context, slot, last) if last else ""
    found = compared(session, slot, policy)
    # The newest block may begin in the sketch block that the last look ended in.
    newest = [window.blocks[-1] for _, window in found.values() if window.blocks]
    if not any(block.first + sketch.BLOCK >= seen for block in newest):
        return _evidence_due(session, context, slot, last) if last else ""
    report = measure(found, policy, seconds)
    report = replace(_since(report, last), at=now)
    row = DriftRow(
        slot=slot.id, detector=policy.cheap, drifted=report.drifted, report=codec.drift_to_json(report), at=now
    )
    session.add(row)
    for held, window in found.values():
        if not report.drifted and len(window.blocks) == policy.blocks:  # what was before it has left it unalarmed
            baselines.grow(session, slot, held, window.first, policy.reference_days, now)
    return _evidence_due(session, context, slot, row)


def compared(session: Session, slot: Slot, policy: Drift) -> dict[str, tuple[Baseline, Window]]:
    """The champion's references, and what is compared with them: the newest inputs and ratings of its own answers.

    Outcomes are absent until the champion has a reference of its own: until it settles, it is watched against its
    predecessor (`policies.watch`), and another version's ratings are no fault of it.
    """
    found = {}
    for kind in ("inputs", "outcomes"):
        held = baselines.reference(session, slot, kind)
        if held is not None:
            size, after = policy.block, held.last
            window = windows.current(
                session, slot.deployment, kind, size=size, blocks=policy.blocks, after=after, version=slot.champion
            )
            found[kind] = (held, window)
    return found


def measure(found: Mapping[str, tuple[Baseline, Window]], policy: Drift, seconds: float) -> DriftReport:
    """The cheap detector on each kind, merged; they share the chance of a false alarm that `seconds` are worth."""
    module = drift.load(policy.cheap)
    chance = false_alarm_chance(policy, seconds) / len(found)
    given = {"error_rate": chance, "agree": policy.agree}
    known = {field.name for field in fields(module.Options)}
    shared = {name: value for name, value in given.items() if name in known}
    options = drifting.options_of(module, {**shared, **policy.options.get(policy.cheap, {})})
    reports = {
        kind: module.measure(baselines.window_of(held), window, options) for kind, (held, window) in found.items()
    }
    return drifting.merge(reports, minimum=policy.minimum)


def _since(report: DriftReport, last: DriftRow | None) -> DriftReport:
    """A column that had drifted at the last look already has been drifting since then."""
    known = {}
    if last is not None and int(last.report["reference"][0]) == report.reference[0]:
        known = {column["column"]: column.get("since", 0) for column in last.report["columns"] if column["drifted"]}
    columns = (
        replace(column, since=known.get(column.column) or column.since) if column.drifted else column
        for column in report.columns
    )
    return replace(report, columns=tuple(columns))


def _reference(session: Session, context: Context, slot: Slot) -> Baseline | None:
    """The champion's inputs baseline; an adopted version's is its first rows, once there are enough of them."""
    found = baselines.newest(session, slot.id, "inputs", slot.champion)
    if found is not None:
        return found
    rule, now = context.policy.drift, context.clock.now()
    first, last = windows.latest(session, slot.deployment, "inputs", rule.minimum)
    window = windows.window(session, slot.deployment, "inputs", first, last)
    if window.n < rule.minimum:
        return None
    baselines.freeze_outcomes(session, slot, slot.champion, now)
    return baselines.freeze_inputs(session, slot, slot.champion, rule.minimum, rule, now)


def _newest(session: Session, slot: Slot, detector: str) -> DriftRow | None:
    return session.scalar(
        select(DriftRow)
        .where(DriftRow.slot == slot.id, DriftRow.detector == detector)
        .order_by(DriftRow.id.desc())
        .limit(1)
    )


def _evidence_due(session: Session, context: Context, slot: Slot, cheap: DriftRow) -> str:
    """The key of the evidence job over the cheap look's window: when it tripped unseen, or when the night is due."""
    policy = context.policy.drift
    name = f"evidence/{slot.deployment}/{slot.tenant}"
    nightly = clock.falls_due(session, name, policy.evidence_schedule, context.clock.now())
    last = _newest(session, slot, policy.evidence)
    end = int(cheap.report["current"][1])
    if not policy.evidence or not (cheap.drifted or nightly) or end == 0:
        return ""
    seen = int(last.report["current"][1]) if last is not None else 0
    if last is not None and seen >= end:
        if nightly:
            clock.done(session, name, context.clock.now())
        return ""
    if not nightly and last is not None and last.drifted == cheap.drifted and end - seen < policy.minimum:
        return ""
    slot.evidence_job = f"{slot.deployment}.drift.{cheap.report['current'][0]}-{end}"
    return slot.evidence_job


def _spec(session: Session, context: Context, slot: Slot, key: str) -> JobSpec:
    rule = context.policy.drift
    found = compared(session, slot, rule)
    if not found:
        raise Corrupt(f"{key} was asked for without an inputs baseline", hint="learnctl audit verify, then report it")
    inputs: dict[str, Any] = {
        "database": context.database,
        "deployment": slot.deployment,
        "version": slot.champion,
        "detector": rule.evidence,
        "options": dict(rule.options.get(rule.evidence, {})),
        "reference": {kind: [held.first, held.last] for kind, (held, _) in found.items()},
        "current": {kind: [new.first, new.last] for kind, (_, new) in found.items()} | {"inputs": list(_span(key))},
        "kinds": list(found),
        "minimum": rule.minimum,
    }
    return JobSpec(
        key=key,
        kind="drift",
        entry="daemon.drifting:run",
        inputs=inputs,
        seed=slot.id,
        deadline=context.clock.now() + EVIDENCE_SECONDS,
        device="cpu",
    )


def _span(key: str) -> tuple[int, int]:
    """The (first, last] window that an evidence job's key names."""
    first, last = key.rsplit(".", 1)[1].split("-")
    return int(first), int(last)


def _collect(session: Session, context: Context, slot_id: int, key: str, error: str) -> None:
    """Store the evidence with its files' hashes, once; a failed report is an audit entry too, never silence."""
    slot = session.get_one(Slot, slot_id)
    detector, now = context.policy.drift.evidence, context.clock.now()
    if slot.evidence_job != key:
        return
    slot.evidence_job = ""
    report = (
        DriftReport(detector, False, False, "", f"the report failed: {error}", current=_span(key), at=now)
        if error
        else codec.drift_from_json({**context.jobs.result(key), "at": now})
    )
    costs.write(session, context, None, "", costs.taken(context, key))
    session.add(
        DriftRow(slot=slot.id, detector=detector, drifted=report.drifted, report=codec.drift_to_json(report), at=now)
    )
    clock.done(session, f"evidence/{slot.deployment}/{slot.tenant}", now)
    audit.append(
        session,
        now=now,
        actor="policy",
        action="drift:failed" if error else "drift:reported",
        reason=report.reason,
        deployment=slot.deployment,
        version=slot.champion,
        policy_hash=context.policy.hash,
        facts={
            "detector": detector,
            "drifted": report.drifted,
            "kind": report.kind,
            "window": list(report.current),
            "files": {name: _digest(Path(name)) for name in report.files},
        },
    )


def _digest(path: Path) -> str:
    """SHA-256 of a report's file, hex: what the audit log says of it can be checked later."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
