"""Erasures to their end: what was erased in the store goes from every file too, and the log says whom it touched.

Owns: training files, evaluation files and recorded answers that hold erased records, the versions that learned from
them, the tombstone's end. Refuses to know requests (`feedback` erased the rows and left a tombstone). Called by
`daemon.housekeeping`; every step may be interrupted and is simply done again.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, false, select, update
from sqlalchemy.orm import Session

from daemon.audit import log
from daemon.files import remove_folder, write_atomically
from daemon.tables import Cycle, MeasurementRow, Setting, VersionRow
from feedback.db import read, transact
from feedback.statements import insert
from feedback.tables import DatasetRow, Record, Tombstone

JUDGE = "judge"
EVALUATIONS = "evaluations"  # of what is cached: answers to imported sets only, nothing of users
CHUNK = 500


@dataclass(frozen=True, slots=True)
class Touched:
    """What an erasure reaches: record numbers and names, datasets drawn from them, versions that descend from those.

    `busy`: a cycle still works on one of the datasets, so that the list of versions may yet grow, or a distillation
    reads the cached lessons, which hold answers to users' prompts.
    """

    seqs: frozenset[int]
    records: frozenset[str]
    datasets: tuple[str, ...]
    versions: tuple[str, ...]
    busy: bool


def settle(engine: Engine, datasets: Path, now: float) -> int:
    """Finish every open erasure and return how many were finished (`now` in unix seconds).

    `datasets` is the folder of training files; jobs, evaluations and caches lie beside it. An erasure whose records
    are being trained on is cleaned at once and finished when that cycle has ended.
    Raises: Transient where the database is away, Corrupt where the audit log doesn't hold.
    """
    # Looking first takes no lock: a tick without an erasure must not wait for a writer.
    waiting = read(
        engine, lambda session: session.scalars(select(Tombstone.id).where(Tombstone.settled.is_(False))).all()
    )
    return sum(_settle(engine, datasets, tombstone, now) for tombstone in waiting)


def touched(session: Session, tombstone: Tombstone) -> Touched:
    """Everything that the erased records reach, as the database knows it now."""
    seqs = frozenset(int(seq) for seq in tombstone.seqs)
    rows = session.execute(
        select(DatasetRow.hash, DatasetRow.seqs).where(DatasetRow.deployment == tombstone.deployment)
    )
    datasets = sorted(digest for digest, drawn in rows if not seqs.isdisjoint(drawn))
    reads = Cycle.dataset.in_(datasets) | (Cycle.method == "distill") if datasets else false()
    busy = session.scalar(select(Cycle.id).where(Cycle.ended.is_(None), reads).limit(1))
    records: set[str] = set()
    for part in _parts(sorted(seqs)):
        records.update(session.scalars(select(Record.id).where(Record.seq.in_(part))))
    versions = _descendants(session, tombstone.deployment, set(datasets))
    return Touched(seqs, frozenset(records), tuple(datasets), versions, busy is not None)


def _settle(engine: Engine, datasets: Path, tombstone_id: int, now: float) -> bool:
    found, cleaned = read(engine, lambda session: _look(session, tombstone_id))
    if found.busy and cleaned:
        return False
    lines = clean_files(datasets, found)
    return transact(engine, lambda session: _conclude(session, tombstone_id, lines, now))


def _look(session: Session, tombstone_id: int) -> tuple[Touched, bool]:
    found = touched(session, session.get_one(Tombstone, tombstone_id))
    return found, session.get(Setting, _mark(tombstone_id)) is not None


def _mark(tombstone_id: int) -> str:
    return f"erasure/{tombstone_id}/cleaned"


def _conclude(session: Session, tombstone_id: int, lines: int, now: float) -> bool:
    tombstone = session.get_one(Tombstone, tombstone_id)
    if tombstone.settled:
        return False
    found = touched(session, tombstone)
    tombstone.versions = list(found.versions)
    for part in _parts(sorted(found.records | {str(seq) for seq in found.seqs})):
        session.execute(
            update(MeasurementRow)
            .where(MeasurementRow.set == JUDGE, MeasurementRow.item.in_(part), MeasurementRow.said != "")
            .values(said="")
        )
    if found.busy:
        mark = insert(session, Setting).values(name=_mark(tombstone_id), value=str(lines))
        session.execute(mark.on_conflict_do_nothing())
        return False
    earlier = session.get(Setting, _mark(tombstone_id))
    if earlier is not None:
        lines += int(earlier.value)
        session.delete(earlier)
    tombstone.settled = True
    _tell(session, tombstone, found, lines, now)
    return True


def _tell(session: Session, tombstone: Tombstone, found: Touched, lines: int, now: float) -> None:
    """The audit entry: numbers and names of versions, nothing of the request, which may name a person."""
    log.append(
        session,
        now=now,
        actor="learnd",
        action="erased",
        reason=f"{len(found.seqs)} records erased; {len(found.versions)} versions had learned from them",
        deployment=tombstone.deployment,
        facts={
            "tombstone": tombstone.id,
            "asked": round(tombstone.at, 3),
            "records": len(found.seqs),
            "datasets": list(found.datasets),
            "lines": lines,
            "versions": list(found.versions),
        },
    )


def _descendants(session: Session, deployment: str, datasets: set[str]) -> tuple[str, ...]:
    """Every version trained on one of the datasets, and every one that descends from such a version."""
    rows = session.execute(
        select(VersionRow.name, VersionRow.dataset, VersionRow.parent, VersionRow.base, VersionRow.manifest).where(
            VersionRow.deployment == deployment
        )
    ).all()
    named = {row.name: {row.parent, row.base, *_named(row.manifest)} - {""} for row in rows}
    found = {row.name for row in rows if {row.dataset, row.manifest.get("dataset", "")} & datasets}
    while more := {name for name, ancestors in named.items() if name not in found and ancestors & found}:
        found |= more
    return tuple(sorted(found))


def _named(manifest: Mapping[str, Any]) -> list[str]:
    return [str(manifest.get("base", "")), str(manifest.get("teacher", "")), *map(str, manifest.get("parents", ()))]


def clean_files(datasets: Path, found: Touched) -> int:
    """Take the records out of every file below the state folder; how many lines went."""
    state = datasets.parent
    lines = 0
    for digest in found.datasets:
        lines += _clean(datasets / digest / "train.jsonl", lambda row: row.get("seq") in found.seqs)
    names = found.records | {str(seq) for seq in found.seqs}

    def asked(row: Mapping[str, Any]) -> bool:
        return row.get("id") in names

    def answered(row: Mapping[str, Any]) -> bool:
        return row.get("seq") in found.seqs or (row.get("set") == JUDGE and row.get("item") in names)

    for path in sorted((state / EVALUATIONS).glob(f"*/{JUDGE}.jsonl")):
        lines += _clean(path, asked)
    for path in sorted((state / "jobs").rglob("*.jsonl")):
        lines += _clean(path, answered)
    if found.datasets and not found.busy:
        _forget_lessons(state / "cache")
    return lines


def _forget_lessons(cache: Path) -> None:
    """Remove every cached lesson of a teacher. A lesson's name doesn't tell its records, and it can be made again."""
    for path in sorted(cache.iterdir()) if cache.is_dir() else ():
        if path.is_dir() and path.name != EVALUATIONS:
            remove_folder(path)


def _clean(path: Path, gone: Callable[[Mapping[str, Any]], bool]) -> int:
    """Rewrite a JSON Lines file without the lines that are `gone`, whole or not at all; how many went."""
    if not path.is_file():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not _is(line, gone)]
    if len(kept) < len(lines):
        write_atomically(path, kept, mode=path.stat().st_mode & 0o777)
    return len(lines) - len(kept)


def _is(line: bytes, gone: Callable[[Mapping[str, Any]], bool]) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False  # a log or a half-written line: it holds no record that we wrote
    return isinstance(row, dict) and gone(row)


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
