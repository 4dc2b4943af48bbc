"""Which artifacts may go, and their going: weights have an end, evidence stays.

Owns: the rule and its one exception list (champion, predecessor, anchor, their ancestry, what an open cycle or command
names), and the order of forgetting: first the database says so, then the files go; and that no second copy of weights
outlives the cycle that made them. Refuses to delete a row. Called by `daemon.housekeeping` once a day.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from daemon.audit import log
from daemon.files import remove_folder
from daemon.jobs import folder_of
from daemon.learning import TEACHER, job_key
from daemon.registry import Registry
from daemon.tables import CommandRow, Cycle, Slot, VersionRow
from feedback.db import read, transact

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Rule:
    """Days that an artifact's files are kept after it was made, by its state; 0 keeps them for good.

    `newest`: of each deployment's retired versions so many always stay, so that going further back stays possible.
    """

    rejected_days: float = 30.0
    candidate_days: float = 30.0
    retired_days: float = 180.0
    teacher_days: float = 180.0
    newest: int = 5


@dataclass(frozen=True, slots=True)
class Artifact:
    """A version as the rule needs it; `ancestors` are the versions it can't be loaded or explained without."""

    name: str
    deployment: str
    state: str
    created: float
    ancestors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """One artifact whose files may go, and why."""

    name: str
    deployment: str
    reason: str


def choose(artifacts: Iterable[Artifact], named: Iterable[str], now: float, rule: Rule) -> tuple[Ending, ...]:
    """The artifacts whose files may go, oldest first; never one that is `named`, nor an ancestor of one that stays.

    Pure. `named`: champions, predecessors, anchors, and what open cycles and commands name. An unknown state stays.
    """
    known = {each.name: each for each in artifacts}
    days = {
        "rejected": rule.rejected_days,
        "candidate": rule.candidate_days,
        "retired": rule.retired_days,
        "teacher": rule.teacher_days,
    }
    old = {
        each.name
        for each in known.values()
        if days.get(each.state, 0.0) > 0 and now - each.created > days[each.state] * DAY
    }
    kept = _with_ancestors(known, {*named, *_newest(known.values(), rule.newest), *(set(known) - old)})
    return tuple(
        Ending(
            each.name, each.deployment, f"{each.state} for more than {days[each.state]:g} days, and nothing names it"
        )
        for each in sorted(known.values(), key=lambda each: (each.created, each.name))
        if each.name not in kept
    )


def sweep(engine: Engine, registry: Registry, now: float, rule: Rule = Rule()) -> tuple[Ending, ...]:
    """Give up the files of every artifact that may go, and return those (`now` in unix seconds).

    The row is marked and the log appended before a file is touched: nobody can promote what is about to go, and a
    removal that was interrupted is finished by the next sweep.
    Raises: Transient where the database is away, Corrupt where the audit log doesn't hold.
    """
    chosen = read(engine, lambda session: _choose(session, now, rule))
    ended = transact(engine, lambda session: _mark(session, now, rule)) if chosen else ()
    for name in read(engine, _given_up):
        if registry.exists(name):
            registry.remove(name)
    return ended


def clear(engine: Engine, jobs: Path) -> tuple[str, ...]:
    """Remove what the training jobs of ended cycles left below `jobs` beside their results, and return their keys.

    A job's output was published or will never be, and its checkpoint is not gone on with: both are weights that the
    registry doesn't know, so that a version that was given up would stay on the disk there.
    Raises: Transient where the database is away.
    """
    found = {}
    for key in read(engine, _trained):
        folders = [folder_of(jobs, key) / name for name in ("output", "checkpoint")]
        found[key] = [folder for folder in folders if folder.is_dir()]
        for folder in found[key]:
            remove_folder(folder)
    return tuple(key for key, folders in found.items() if folders)


def _trained(session: Session) -> list[str]:
    """The keys that training jobs of ended cycles have, where they had one."""
    rows = session.execute(select(Slot, Cycle.id).join(Cycle, Cycle.slot == Slot.id).where(Cycle.ended.is_not(None)))
    return [job_key(slot, cycle, step) for slot, cycle in rows for step in (TEACHER, "candidate")]


def _mark(session: Session, now: float, rule: Rule) -> tuple[Ending, ...]:
    ended = _choose(session, now, rule)
    for each in ended:
        session.get_one(VersionRow, each.name).deleted = now
        log.append(
            session,
            now=now,
            actor="learnd",
            action="artifact_deleted",
            reason=each.reason,
            deployment=each.deployment,
            version=each.name,
        )
    return ended


def _choose(session: Session, now: float, rule: Rule) -> tuple[Ending, ...]:
    rows = session.scalars(select(VersionRow).where(VersionRow.deleted.is_(None)))
    return choose([_artifact(row) for row in rows], _named(session), now, rule)


def _given_up(session: Session) -> list[str]:
    """Versions whose files may go, less what somebody names again: the same content can be published anew."""
    rows = session.scalars(select(VersionRow)).all()
    used = _with_ancestors({row.name: _artifact(row) for row in rows}, _named(session))
    return [row.name for row in rows if row.deleted is not None and row.name not in used]


def _artifact(row: VersionRow) -> Artifact:
    manifest = row.manifest
    named = {row.parent, row.base, manifest.get("base"), manifest.get("teacher"), *manifest.get("parents", ())}
    ancestors = tuple(sorted(str(name) for name in named if name))
    return Artifact(row.name, row.deployment, row.state, row.created, ancestors)


def _named(session: Session) -> set[str]:
    """Every version that a slot, an open cycle or an open command names."""
    found: set[str] = set()
    for slot in session.scalars(select(Slot)):
        found |= {slot.champion, slot.predecessor, slot.anchor, slot.rolling_back_to}
    for cycle in session.scalars(select(Cycle).where(Cycle.ended.is_(None))):
        found |= {cycle.candidate, cycle.teacher, cycle.champion}
    found.update(session.scalars(select(CommandRow.version).where(CommandRow.outcome == "")))
    return found - {""}


def _newest(artifacts: Iterable[Artifact], count: int) -> set[str]:
    by_deployment: dict[str, list[Artifact]] = {}
    for each in artifacts:
        if each.state == "retired":
            by_deployment.setdefault(each.deployment, []).append(each)
    newest = (sorted(each, key=lambda one: one.created, reverse=True)[:count] for each in by_deployment.values())
    return {each.name for group in newest for each in group}


def _with_ancestors(known: Mapping[str, Artifact], names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(known[name].ancestors if name in known else ())
    return found
