"""The demo's story: a small shop's weeks in five phases, each ended by what learnd did, and the report of it.

Owns: what people ask in which week, when a phase is over, the table at the end. Refuses to steer learnd: a phase that
ends otherwise than the story says is told as it was, and the exit code says so. Called by `daemon.main`.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon import logs
from daemon.audit import log as audit
from daemon.audit.replay import replay
from daemon.demo.stage import NAME, Stage, quiet
from daemon.demo.users import Traffic
from daemon.policyfile import parse_policy
from daemon.tables import Cycle, Decision, Slot, VerdictRow
from feedback import db, store

FEW_WEEKS = 4


@dataclass(frozen=True, slots=True)
class Phase:
    """`weeks` of traffic in order, the last one repeated until a cycle of this phase has ended as `ends` says.

    `action` and `outcome` are what the story expects; `delivers`: the vendor's teacher comes at its beginning.
    """

    name: str
    says: str
    weeks: tuple[Traffic, ...]
    action: str
    outcome: str
    ends: str = ""
    delivers: bool = False


STORY = (
    Phase("steady", "people ask what the model knows", (Traffic(220), Traffic(220)), "wait", "waiting"),
    Phase(
        "drift",
        "two new topics: renting and recycling",
        (Traffic(320, new=420), Traffic(220, new=280)),
        "promote",
        "promoted",
        ends="settled",
    ),
    Phase(
        "poison",
        "a crowd teaches unsafe answers",
        (Traffic(180, new=180, attackers=320),),
        "reject",
        "rejected",
        ends="refused",
    ),
    Phase(
        "teacher",
        "the vendor refreshes the teacher; people ask for design advice",
        (Traffic(260, new=170, later=190),),
        "promote",
        "promoted",
        ends="promoted",
        delivers=True,
    ),
    Phase(
        "regress",
        "the new version closes with a phrase that people dislike",
        (Traffic(260, new=170, later=190),),
        "rollback",
        "rolled_back",
        ends="rolled_back",
    ),
)


@dataclass(slots=True)
class Told:
    """One phase of the report, with the fields that the report promises."""

    name: str
    action: str
    method: str
    outcome: str
    reason: str
    champion_before: str
    champion_after: str
    refused_by: list[str] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)


def run(folder: Path | None, report: Path | None, seed: int) -> int:
    """Play the story in `folder` (a temporary one where None), write the report, and say how it ended: 0 or 1.

    Raises: Refused where the folder is not empty.
    """
    began = perf_counter()
    logs.configure("critical")  # an alert is part of the story, and told as such
    quiet()
    place = (folder or Path(tempfile.mkdtemp(prefix="learnd-demo-"))).absolute()

    def tell(line: str) -> None:
        typer.echo(f"{perf_counter() - began:6.1f} s  {line}")

    tell(f"seed {seed}, in {place}: a furniture shop's assistant, served and looked after")
    stage = Stage(place, seed, tell)
    try:
        stage.open()
        phases = [play(stage, phase) for phase in STORY]
        whole = _report(stage, phases, seed)
    finally:
        stage.service.stop()
    whole["seconds"] = round(perf_counter() - began, 1)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return _close(place, phases, whole)


def play(stage: Stage, phase: Phase) -> Told:
    """Play one phase: weeks pass until learnd has ended it, or four have passed without."""
    stage.tell(f"--- {phase.name}: {phase.says}")
    if phase.delivers:
        stage.deliver()
    before = _slot(stage)
    last = db.read(stage.service.engine, _last_cycle)
    scores: dict[str, Any] = {"before": stage.exam(stage.served()[1])}
    weeks = list(phase.weeks)
    lasting = len(weeks) if not phase.ends else FEW_WEEKS
    for number in range(lasting):
        told = stage.week(weeks[min(number, len(weeks) - 1)])
        stage.tell(f"week: {told.asked} questions, {told.right / max(1, told.asked):.0%} answered right")
        stage.work(lambda: _standing(stage))
        if phase.ends and _ended(stage, last, phase.ends):
            break
    scores["after"] = stage.exam(stage.served()[1])
    found = db.read(stage.service.engine, lambda session: _happened(session, phase, last))
    if found["candidate"]:
        scores["candidate"] = stage.exam(stage.candidate(found["candidate"]))
    told_phase = Told(
        name=phase.name,
        action=found["action"],
        method=found["method"],
        outcome=found["outcome"],
        reason=found["reason"],
        champion_before=before.champion,
        champion_after=_slot(stage).champion,
        refused_by=found["refused_by"],
        scores=scores,
    )
    stage.tell(f"=== {phase.name}: {told_phase.action}, {told_phase.outcome}: {told_phase.reason}")
    return told_phase


def _slot(stage: Stage) -> Slot:
    return db.read(stage.service.engine, lambda session: session.scalars(select(Slot)).one())


def _standing(stage: Stage) -> str:
    slot = _slot(stage)
    look = "Evidently compares this week with the baseline" if slot.evidence_job else ""
    return f"{slot.phase}: {look or slot.reason.partition(';')[0].removeprefix(f'{slot.phase}: ')}"


def _last_cycle(session: Session) -> int:
    return session.scalar(select(Cycle.id).order_by(Cycle.id.desc()).limit(1)) or 0


def _ended(stage: Stage, last: int, ends: str) -> bool:
    """Whether the phase's cycle has come to the end that the story waits for."""

    def look(session: Session) -> bool:
        slot = session.scalars(select(Slot)).one()
        if ends == "promoted":
            cycle = session.get(Cycle, slot.cycle) if slot.cycle else None
            return cycle is not None and cycle.id > last and slot.champion == cycle.candidate
        query = select(Cycle).where(Cycle.outcome == ends, Cycle.ended.is_not(None)).order_by(Cycle.id.desc())
        done = session.scalars(query.limit(1)).first()
        return done is not None and (done.id > last or ends == "rolled_back")

    return db.read(stage.service.engine, look)


def _happened(session: Session, phase: Phase, last: int) -> dict[str, Any]:
    """What tells the phase: its cycle's last decision of the expected kind, else its last one at all."""
    query = select(Decision).where(Decision.outcome.is_not(None)).order_by(Decision.id.desc())
    cycle = session.scalars(select(Cycle).order_by(Cycle.id.desc()).limit(1)).first()
    if phase.name != "regress":
        cycle = cycle if cycle is not None and cycle.id > last else None
    slot = session.scalars(select(Slot)).one()
    told = {"action": "wait", "method": "nothing", "outcome": "waiting", "reason": slot.reason, "candidate": ""}
    if cycle is None:
        return {**told, "refused_by": []}
    mine = list(session.scalars(query.where(Decision.cycle == cycle.id)))
    wanted = [decision for decision in mine if decision.action == phase.action.capitalize()] or mine
    if not wanted:
        return {**told, "refused_by": []}
    decision = wanted[0]
    # A promotion takes several steps: why it was learned, and the first one's reason, tell more than the last one's.
    reason = f"{cycle.reason}; {wanted[-1].reason}" if decision.action == "Promote" else decision.reason
    refused = decision.action == "Reject"
    failing = select(VerdictRow.gate).where(VerdictRow.evaluation == cycle.evaluation, VerdictRow.result != "pass")
    return {
        "action": decision.action.lower(),
        "method": cycle.method,
        "outcome": str(decision.outcome),
        "reason": reason,
        "candidate": cycle.candidate if refused else "",
        "refused_by": sorted(set(session.scalars(failing))) if refused else [],
    }


def _report(stage: Stage, phases: list[Told], seed: int) -> dict[str, Any]:
    engine = stage.service.engine
    counted = db.read(engine, lambda session: _summed(store.counters(session, NAME), store.counters(session, "")))
    checked = db.read(engine, audit.verify)
    again = replay(engine, parse_policy)
    return {
        "seconds": 0.0,
        "seed": seed,
        "feedback": {"read": stage.read, **{k: counted[k] for k in ("stored", "duplicates", "dead_letters")}},
        "phases": [asdict(phase) for phase in phases],
        "audit": {"ok": checked.ok, "entries": checked.entries},
        "replay": {"decisions": again.decisions, "same": again.same},
    }


def _summed(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}


def _close(place: Path, phases: list[Told], whole: Mapping[str, Any]) -> int:
    """The table, where everything lies, what to type next; 0 when the story went as it is told."""
    wanted = {phase.name: (phase.action, phase.outcome) for phase in STORY}
    as_told = all((phase.action, phase.outcome) == wanted[phase.name] for phase in phases)
    kept, unsafe = phases[2], "safety" in phases[2].refused_by
    as_told = as_told and unsafe and kept.champion_before == kept.champion_after
    typer.echo("\nphase    what learnd did               right answers: base / new / later / refuses, before -> after")
    for phase in phases:
        done = f"{phase.action} ({phase.method})" + (f" by {', '.join(phase.refused_by)}" if phase.refused_by else "")
        both = " -> ".join(_percents(phase.scores[name]) for name in ("before", "after"))
        other = phase.scores.get("candidate")
        typer.echo(f"{phase.name:8} {done:30} {both}" + (f" (refused: {_percents(other)})" if other else ""))
    counts, checked, again = whole["feedback"], whole["audit"], whole["replay"]
    ctl = f"learnctl --config {place / 'learnd.toml'}"
    typer.echo(
        f"\nfeedback {counts['read']} read, {counts['stored']} stored, {counts['duplicates']} duplicates, "
        f"{counts['dead_letters']} dead letters\n"
        f"audit    {checked['entries']} entries, {'verified' if checked['ok'] else 'NOT VERIFIED'}; "
        f"replay {again['same']} of {again['decisions']} decisions the same\n"
        f"files    {place}: learnd.toml, policies/, goldens/, feed/, vendor/, serving/, state/ (database, registry, jobs)\n"
        f"took     {whole['seconds']:.0f} s\n\nlook around:\n"
        + "".join(f"  {ctl} {command}\n" for command in _commands(phases))
    )
    if not (as_told and checked["ok"]):
        typer.echo("the story did not end as it is told: see the lines above", err=True)
        return 1
    return 0


def _commands(phases: list[Told]) -> list[str]:
    return ["status", "cycles", "versions", f"show {phases[1].champion_after}", "drift", "dead-letters", "audit verify"]


def _percents(scores: Mapping[str, float]) -> str:
    return " / ".join(f"{100 * scores[name]:.0f}" for name in ("base", "new", "later", "refuses"))
