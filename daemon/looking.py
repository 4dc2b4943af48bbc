"""Looking for drift: cheap statistics in the loop, Evidently's report in a job when they trip, and nightly.

Where the policy names an encoder, what questions mean is compared in a job of its own; its report joins the cheap one's.
One job of a slot at a time, and no look waits for it.

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
from feedback import asked, db, drift, sketch, store, windows
from feedback.drift import meaning
from feedback.windows import Window
from policies.errors import Corrupt
from policies.model import DriftReport
from policies.policy import Drift
from policies.triggers import false_alarm_chance

EVIDENCE_SECONDS = 1800.0
MEANING = meaning.NAME
MEANING_SECONDS = 3600.0  # between two questions to the encoder
EVIDENT_SLICES = 5  # of an alarm, that Evidently is asked about

Compared = tuple[Baseline, Window, Window]  # a baseline, what it froze, and what is compared with it


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
        return _job_due(session, context, slot, last) if last else ""
    found = compared(session, slot, policy)
    # The newest block may begin in the sketch block that the last look ended in.
    newest = [window.blocks[-1] for _, _, window in found.values() if window.blocks]
    if not any(block.first + sketch.BLOCK >= seen for block in newest):
        return _job_due(session, context, slot, last) if last else ""
    report = _with_meaning(session, slot, policy, measure(found, policy, seconds))
    row = _add(session, slot, policy.cheap, replace(_since(report, last), at=now))
    for held, _, window in found.values():
        if not report.drifted:  # what was before it has left it unalarmed
            baselines.grow(session, slot, held, window, policy, now)
    return _job_due(session, context, slot, row)


def compared(session: Session, slot: Slot, policy: Drift) -> dict[str, Compared]:
    """The champion's references, and what is compared with them: the newest inputs and ratings of its own answers.

    Outcomes are absent until the champion has a reference of its own: until it settles, it is watched against its
    predecessor (`policies.watch`), and another version's ratings are no fault of it.
    """
    found = {}
    for kind in ("inputs", "outcomes"):
        held = baselines.reference(session, slot, kind)
        if held is not None:
            reference = baselines.window_of(held)
            window = windows.current(
                session,
                slot.deployment,
                kind,
                size=policy.block,
                blocks=policy.blocks,
                after=held.last,
                version=slot.champion,
                slice_size=policy.slice_block,
                slice_after={name: one.last for name, one in reference.slices.items()},
            )
            found[kind] = (held, reference, window)
    return found


def measure(found: Mapping[str, Compared], policy: Drift, seconds: float) -> DriftReport:
    """The cheap detector on each kind, merged; they share the chance of a false alarm that `seconds` are worth.

    Which questions are new is told beside it and never alarms: it takes no part in the correction, so that the false
    alarms stay what they were.
    """
    module = drift.load(policy.cheap)
    chance = false_alarm_chance(policy, seconds) / _sharers(found, policy)
    given = {"error_rate": chance, "agree": policy.agree}
    known = {field.name for field in fields(module.Options)}
    shared = {name: value for name, value in given.items() if name in known}
    options = drifting.options_of(module, {**shared, **policy.options.get(policy.cheap, {})})
    reports = {kind: module.measure(reference, window, options) for kind, (_, reference, window) in found.items()}
    report = drifting.merge(reports, minimum=policy.minimum)
    reference, window = (side.asked for side in found["inputs"][1:]) if "inputs" in found else (None, None)
    return replace(report, questions=asked.told(reference, window))


def _sharers(found: Mapping[str, Compared], policy: Drift) -> int:
    """Among how many the chance of a false alarm is shared: the kinds, and what questions mean."""
    return len(found) + bool(policy.encoder)


def _with_meaning(session: Session, slot: Slot, policy: Drift, report: DriftReport) -> DriftReport:
    """The cheap report with the newest one on what questions mean, where it was made against the same reference."""
    told = _newest(session, slot, MEANING) if policy.encoder else None
    if told is None or not told.report["judged"] or int(told.report["reference"][0]) != report.reference[0]:
        return report
    return _joined(report, codec.drift_from_json(told.report), report.at)


def _joined(cheap: DriftReport, told: DriftReport, at: float) -> DriftReport:
    """The cheap report with the one on meaning; what an older one of these had told in it is gone."""
    columns = tuple(column for column in cheap.columns if column.column != meaning.COLUMN)
    if len(columns) < len(cheap.columns) and any(c.drifted for c in cheap.columns if c.column == meaning.COLUMN):
        return replace(cheap, columns=(*columns, *told.columns), at=at)
    return drifting.merge({"cheap": replace(cheap, columns=columns), MEANING: told}, at=at)


def _add(session: Session, slot: Slot, detector: str, report: DriftReport) -> DriftRow:
    row = DriftRow(
        slot=slot.id, detector=detector, drifted=report.drifted, report=codec.drift_to_json(report), at=report.at
    )
    session.add(row)
    return row


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


def _job_due(session: Session, context: Context, slot: Slot, cheap: DriftRow) -> str:
    """The key of the job that is due after a cheap look: evidence, or what questions mean; "" where none is."""
    slot.evidence_job = _evidence_due(session, context, slot, cheap) or _meaning_due(session, context, slot, cheap)
    return slot.evidence_job


def _meaning_due(session: Session, context: Context, slot: Slot, cheap: DriftRow) -> str:
    """Due with a block of new records since the encoder was asked last, and no more often than every hour."""
    policy, last = context.policy.drift, _newest(session, slot, MEANING)
    first, end = cheap.report["current"]
    same = last is not None and int(last.report["reference"][0]) == int(cheap.report["reference"][0])
    if not policy.encoder or not cheap.report["judged"]:
        return ""
    if last is not None and same:
        fresh = end - int(last.report["current"][1])
        if fresh < policy.block or context.clock.now() - last.at < MEANING_SECONDS:
            return ""
    return f"{slot.deployment}.{MEANING}.{first}-{end}"


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
    return f"{slot.deployment}.drift.{cheap.report['current'][0]}-{end}"


def _spec(session: Session, context: Context, slot: Slot, key: str) -> JobSpec:
    rule = context.policy.drift
    found = compared(session, slot, rule)
    if not found:
        raise Corrupt(f"{key} was asked for without an inputs baseline", hint="learnctl audit verify, then report it")
    mine = _is_meaning(key)
    kinds = ["inputs"] if mine else list(found)
    inputs: dict[str, Any] = {
        "database": context.database,
        "deployment": slot.deployment,
        "version": slot.champion,
        "detector": MEANING if mine else rule.evidence,
        "options": _meaning_options(session, context, slot, found)
        if mine
        else dict(rule.options.get(rule.evidence, {})),
        "reference": {kind: [found[kind][0].first, found[kind][0].last] for kind in kinds},
        "current": {kind: [found[kind][2].first, found[kind][2].last] for kind in kinds} | {"inputs": list(_span(key))},
        "kinds": kinds,
        "slices": [] if mine else _alarmed(found, _newest(session, slot, rule.cheap)),
        "encoder": rule.encoder,
        "blocks": [[block.first, block.last] for block in found["inputs"][2].blocks],
        "minimum": rule.minimum,
    }
    return JobSpec(
        key=key,
        kind=MEANING if mine else "drift",
        entry="daemon.drifting:run",
        inputs=inputs,
        seed=slot.id,
        deadline=context.clock.now() + EVIDENCE_SECONDS,
        device="cpu",
    )


def _is_meaning(key: str) -> bool:
    return key.rsplit(".", 2)[1] == MEANING


def _meaning_options(session: Session, context: Context, slot: Slot, found: Mapping[str, Compared]) -> dict[str, Any]:
    """The detector's options with its share of the month's false alarms, since it was asked last."""
    rule, last = context.policy.drift, _newest(session, slot, MEANING)
    frozen = baselines.newest(session, slot.id, "inputs", slot.champion)  # not what it grew into a moment ago
    seconds = context.clock.now() - (last.at if last else frozen.at if frozen else context.clock.now())
    chance = false_alarm_chance(rule, seconds) / _sharers(found, rule)
    return {"error_rate": chance, "agree": rule.agree, **rule.options.get(MEANING, {})}


def _alarmed(found: Mapping[str, Compared], cheap: DriftRow | None) -> list[dict[str, Any]]:
    """The slices over which the cheap look alarmed: their kind, name and windows, for the evidence job."""
    drifted = [column for column in cheap.report["columns"] if column["drifted"]] if cheap else []
    names = {column["slice"] for column in drifted if column.get("slice")}
    told = [
        {
            "kind": kind,
            "slice": name,
            "reference": [reference.slices[name].first, reference.slices[name].last],
            "current": [window.slices[name].first, window.slices[name].last],
        }
        for kind, (_, reference, window) in found.items()
        for name in sorted(names & set(reference.slices) & set(window.slices))
    ]
    return told[:EVIDENT_SLICES]


def _span(key: str) -> tuple[int, int]:
    """The (first, last] window that an evidence job's key names."""
    first, last = key.rsplit(".", 1)[1].split("-")
    return int(first), int(last)


def _collect(session: Session, context: Context, slot_id: int, key: str, error: str) -> None:
    """Store the report with its files' hashes, once; a failed one is an audit entry too, never silence."""
    slot, policy, now = session.get_one(Slot, slot_id), context.policy.drift, context.clock.now()
    if slot.evidence_job != key:
        return
    slot.evidence_job = ""
    detector = MEANING if _is_meaning(key) else policy.evidence
    cheap = _newest(session, slot, policy.cheap)
    against = (int(cheap.report["reference"][0]), int(cheap.report["reference"][1])) if cheap else (0, 0)
    report = (
        DriftReport(detector, False, False, "", f"the report failed: {error}", (), against, _span(key), now)
        if error
        else codec.drift_from_json({**context.jobs.result(key), "at": now})
    )
    costs.write(session, context, None, "", costs.taken(context, key))
    _add(session, slot, detector, report)
    if detector != MEANING:
        clock.done(session, f"evidence/{slot.deployment}/{slot.tenant}", now)
    elif report.drifted and cheap is not None:  # what it found asks at once, not with the next block
        _add(session, slot, policy.cheap, _joined(codec.drift_from_json(cheap.report), report, now))
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
