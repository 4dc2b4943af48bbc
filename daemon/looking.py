"""Looking for drift: cheap statistics in the loop, Evidently's report in a job when they trip, and nightly.

Owns: when a look is due and where its report goes. Refuses to decide whether a drift matters (`policies.triggers`) and to
compute one (`feedback.drift`). Called by `daemon.loop` before every decision.
"""

import hashlib
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon import baselines, clock, codec, drifting
from daemon.audit import log as audit
from daemon.context import Context
from daemon.jobs import JobSpec
from daemon.tables import Baseline, DriftRow, Slot
from feedback import db, drift, store, windows
from policies.errors import Corrupt
from policies.model import DriftReport

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
    head = store.head(session)
    if last is not None and (last.at + policy.every_seconds > now or last.report["current"][1] == head):
        return _evidence_due(session, context, slot, last)
    reference = _reference(session, context, slot)
    if reference is None or head <= reference.last:
        return ""
    report = measure(session, context, slot, reference, policy.cheap)
    if report is None:
        return ""
    row = DriftRow(
        slot=slot.id, detector=policy.cheap, drifted=report.drifted, report=codec.drift_to_json(report), at=now
    )
    session.add(row)
    return _evidence_due(session, context, slot, row)


def measure(session: Session, context: Context, slot: Slot, reference: Baseline, detector: str) -> DriftReport | None:
    """The cheap detector on inputs and outcomes, merged; None while there is nothing after the reference."""
    module = drift.load(detector)
    options = drifting.options_of(module, context.policy.drift.options.get(detector, {}))
    now = context.clock.now()
    reports = []
    for kind, frozen in (("inputs", reference), ("outcomes", _outcomes(session, slot))):
        first, last = windows.latest(session, slot.deployment, kind, context.policy.drift.current)
        first = max(first, reference.last)
        if last <= first or frozen is None:
            continue
        held = frozen.aggregates if kind == "inputs" else frozen.aggregates["window"]
        current = windows.window(session, slot.deployment, kind, first, last, sample=0)
        reports.append((kind, module.measure(windows.thaw(held), current, options)))
    if not reports:
        return None
    return drifting.merge(dict(reports), minimum=context.policy.drift.minimum, at=now)


def _outcomes(session: Session, slot: Slot) -> Baseline | None:
    """The champion's outcomes baseline; until it settles, that of the version before it."""
    own = baselines.newest(session, slot.id, "outcomes", slot.champion)
    return own or baselines.newest(session, slot.id, "outcomes")


def _reference(session: Session, context: Context, slot: Slot) -> Baseline | None:
    """The champion's inputs baseline; an adopted version's is its first rows, once there are enough of them."""
    found = baselines.newest(session, slot.id, "inputs", slot.champion)
    if found is not None:
        return found
    first, last = windows.latest(session, slot.deployment, "inputs", context.policy.drift.minimum)
    window = windows.window(session, slot.deployment, "inputs", first, last, sample=0)
    if window.n < context.policy.drift.minimum:
        return None
    now = context.clock.now()
    baselines.freeze_outcomes(session, slot, slot.champion, now)
    return baselines.freeze_inputs(session, slot, slot.champion, context.policy.drift.minimum, now)


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
    reference = baselines.newest(session, slot.id, "inputs", slot.champion)
    if reference is None:
        raise Corrupt(f"{key} was asked for without an inputs baseline", hint="learnctl audit verify, then report it")
    detector = context.policy.drift.evidence
    inputs: dict[str, Any] = {
        "database": context.database,
        "deployment": slot.deployment,
        "detector": detector,
        "options": dict(context.policy.drift.options.get(detector, {})),
        "reference": [reference.first, reference.last],
        "current": list(_span(key)),
        "kinds": ["inputs", "outcomes"],
        "minimum": context.policy.drift.minimum,
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
