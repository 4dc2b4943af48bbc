"""Sets of items that a person accepted: imported as JSON Lines all or nothing, versioned, hashed, exported, proposed.

Owns: what a line must be, when a set is a new version, which sets count. Refuses to run a model (`daemon.probes`).
Called by `daemon.commands` (import), `daemon.observe`, `daemon.judging`, `daemon.learning`, `daemon.ancestry`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from daemon.codec import canonical
from daemon.golden_lines import Line, Problem, read_lines
from daemon.probes.checks import check
from daemon.study import write_lines
from daemon.tables import GoldenItem, GoldenSet
from feedback import store
from feedback.near import Near, normalise, prompt_text
from policies.errors import Refused
from policies.model import SetView

ROLES = ("goldens", "safety", "anchor")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFINITE = ("contains", "regex", "json_schema", "numeric", "refuse", "comply")
TAKEN = ("judge", "budget", "proof", "plan", "ancestry")  # sets of measurements that are no imported set


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of a file: `stored` is false where a line was refused (then nothing is), `new` where it is known."""

    deployment: str
    name: str
    role: str
    version: str
    hash: str
    items: int
    slices: dict[str, int]
    stored: bool
    new: bool
    refused: tuple[Problem, ...] = ()


def import_file(
    session: Session, *, deployment: str, name: str, role: str, text: str, actor: str, now: float
) -> ImportReport:
    """Read JSON Lines of {"id", "slice", "messages" or "prompt", "check", "reference"} and accept them as set `name`.

    One refused line refuses the file. The same content is no new version, and `actor` is who accepted the set.
    Raises: Refused where name, role or actor can't be used.
    """
    _check_names(name, role, actor)
    lines, problems = read_lines(text, role)
    slices = dict(sorted(Counter(line.slice for line in lines).items()))
    if problems:
        return ImportReport(deployment, name, role, "", "", 0, {}, stored=False, new=False, refused=tuple(problems))
    digest = hashlib.sha256(canonical([role, sorted((line.body for line in lines), key=_id)])).hexdigest()
    sets = list(session.scalars(select(GoldenSet).where(GoldenSet.deployment == deployment, GoldenSet.name == name)))
    known = next((row for row in sets if row.hash == digest), None)
    for row in sets:
        row.current = row is known
    made = known or GoldenSet(
        deployment=deployment, name=name, role=role, version=str(len(sets) + 1), hash=digest, current=True, at=now
    )
    made.accepted_by = made.accepted_by or actor
    if known is None:
        _add(session, made, lines)
    return ImportReport(
        deployment, name, role, made.version, digest, len(lines), slices, stored=True, new=known is None
    )


def accepted(session: Session, deployment: str) -> tuple[SetView, ...]:
    """The sets that count: accepted by a person and not replaced by a newer version, by name."""
    sets = _current(session, deployment)
    counted = select(GoldenItem.set, func.count()).where(GoldenItem.set.in_([row.id for row in sets]))
    counts = {number: int(n) for number, n in session.execute(counted.group_by(GoldenItem.set))}
    return tuple(SetView(row.name, row.role, counts.get(row.id, 0), row.version) for row in sets)


def listing(session: Session, deployment: str = "") -> list[dict[str, Any]]:
    """Every version of every set (of one deployment, or of all), newest first, without its items."""
    query = select(GoldenSet).order_by(GoldenSet.at.desc(), GoldenSet.id.desc())
    if deployment:
        query = query.where(GoldenSet.deployment == deployment)
    slices: dict[int, dict[str, int]] = {}
    counted = select(GoldenItem.set, GoldenItem.slice, func.count()).group_by(GoldenItem.set, GoldenItem.slice)
    for number, name, count in session.execute(counted.order_by(GoldenItem.slice)):
        slices.setdefault(number, {})[name] = count
    return [
        {
            "deployment": row.deployment,
            "name": row.name,
            "role": row.role,
            "version": row.version,
            "items": sum(slices.get(row.id, {}).values()),
            "slices": slices.get(row.id, {}),
            "hash": row.hash,
            "current": row.current,
            "accepted_by": row.accepted_by,
            "at": row.at,
        }
        for row in session.scalars(query)
    ]


def items(session: Session, deployment: str, name: str) -> list[dict[str, Any]]:
    """The items of the accepted set `name` as they were imported, by id.

    Raises: Refused where there is no such set.
    """
    for row in _current(session, deployment):
        if row.name == name:
            return _bodies(session, row.id)
    raise Refused(f"{deployment} has no accepted set {name!r}", hint="learnctl goldens list shows what there is")


def texts(session: Session, deployment: str) -> list[str]:
    """What the users' turns of every accepted item say: prompts that no training data may hold, nor nearly."""
    bodies = (body for row in _current(session, deployment) for body in _bodies(session, row.id))
    return sorted({prompt_text(body["messages"]) for body in bodies})


def references(session: Session, deployment: str) -> dict[str, Callable[[str], bool]]:
    """Whether an answer passes, for every prompt of an accepted set that has a definite answer, by the normalised prompt.

    Items of which one wording among many passes (exact, normalised) are left out: another one contradicts nothing.
    """
    found: dict[str, Callable[[str], bool]] = {}
    for row in _current(session, deployment):
        for body in _bodies(session, row.id) if row.role == "goldens" else ():
            kind, value = body["check"]["kind"], body["check"].get("value", body.get("reference"))
            if kind in DEFINITE and value is not None:
                found[normalise(prompt_text(body["messages"]))] = partial(_passes, kind, value)
    return found


def write_sets(session: Session, deployment: str, folder: Path) -> list[dict[str, Any]]:
    """Export the accepted sets to `folder` as JSON Lines, and name them as an evaluation's input `sets`."""
    written = []
    for row in _current(session, deployment):
        path = folder / f"{row.role}-{row.name}.jsonl"
        bodies = _bodies(session, row.id)
        write_lines(path, bodies)
        written.append({"name": row.name, "role": row.role, "path": str(path), "hash": row.hash, "items": len(bodies)})
    return written


def propose(session: Session, deployment: str, n: int, *, tenant: str = "") -> list[dict[str, Any]]:
    """Up to `n` items for a person to look at, newest first, from `judge` records that no accepted item resembles.

    They are lines that `import_file` takes; proposing stores nothing.
    """
    known, proposed = Near(texts(session, deployment)), set[str]()
    found: list[dict[str, Any]] = []
    for record in reversed(store.judge_items(session, deployment, tenant, 0, store.head(session), 20 * n)):
        prompt = prompt_text(record["messages"])
        if len(found) == n or prompt in known or prompt in Near(proposed):
            continue
        proposed.add(prompt)
        body = {"id": record["id"], "slice": record.get("slice") or "", "messages": record["messages"]}
        found.append({**body, "check": {"kind": "reference"}, "reference": record["reference"]})
    return found


def _passes(kind: str, value: Any, answer: str) -> bool:
    return check(kind, value, answer) >= 1.0


def _check_names(name: str, role: str, actor: str) -> None:
    if role not in ROLES:
        raise Refused(f"{role!r} is no role of a set", hint=f"one of: {', '.join(ROLES)}")
    if not NAME.fullmatch(name) or name in TAKEN:
        hint = "1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit"
        raise Refused(f"{name!r} can't name a set", hint=hint if name not in TAKEN else f"{name} is learnd's own")
    if not actor:
        raise Refused("a set is accepted by a person, and nobody is named", hint="import it through learnctl")


def _add(session: Session, made: GoldenSet, lines: list[Line]) -> None:
    session.add(made)
    session.flush()
    session.add_all(GoldenItem(set=made.id, item=line.id, slice=line.slice, body=line.body) for line in lines)
    session.flush()


def _current(session: Session, deployment: str) -> list[GoldenSet]:
    query = select(GoldenSet).where(
        GoldenSet.deployment == deployment, GoldenSet.current.is_(True), GoldenSet.accepted_by != ""
    )
    return list(session.scalars(query.order_by(GoldenSet.name)))


def _bodies(session: Session, number: int) -> list[dict[str, Any]]:
    query = select(GoldenItem.body).where(GoldenItem.set == number).order_by(GoldenItem.item)
    return [dict(body) for body in session.scalars(query)]


def _id(body: Mapping[str, Any]) -> str:
    return str(body["id"])
