"""The data probe: what the records that a version descends from are today, over its whole ancestry.

Owns: the walk from a version through parents, bases and teachers to what was adopted, and the counts. Refuses to judge
them (`policies.gates.data`) and to read training files: the lineage in the database is enough. Called by
`daemon.judging`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from daemon import goldens
from daemon.tables import VersionRow
from feedback.near import Near, prompt_text
from feedback.tables import DatasetRow, Held, Record
from policies.errors import Corrupt
from policies.model import Measurement

KINDS = ("unconsented", "erased", "quarantined", "judge_fold", "near_duplicate", "records")
CHUNK = 500


def measurements(session: Session, *, deployment: str, tenant: str, version: str) -> list[Measurement]:
    """How many records of the ancestry are now unconsented, erased, quarantined, … and how many there are at all.

    A record that isn't stored any more counts as erased. The slot (`tenant` "": the base) says which consent suffices.
    Raises: Corrupt where a version or a dataset of the ancestry is not in the database.
    """
    found = dict.fromkeys(KINDS, 0) | count(
        session, datasets(session, version), tenant=tenant, forbidden=goldens.texts(session, deployment)
    )
    found["external"] = int(_came_from_outside(session.get_one(VersionRow, version)))
    return [Measurement("data", "ancestry", kind, "", version, float(found[kind])) for kind in (*KINDS, "external")]


def _came_from_outside(row: VersionRow) -> bool:
    """A teacher that was delivered as a folder: it has neither a parent nor a dataset of ours."""
    return row.method == "teacher" and not row.dataset and not _ancestors(row)


def datasets(session: Session, version: str) -> tuple[str, ...]:
    """The hashes of all datasets that `version` and its ancestors learned from, sorted.

    Raises: Corrupt where an ancestor is not in the database.
    """
    seen: set[str] = set()
    open_names, found = [version], set[str]()
    while open_names:
        name = open_names.pop()
        if name in seen:
            continue
        seen.add(name)
        row = session.get(VersionRow, name)
        if row is None:
            hint = "its lineage can't be proven: train again from a version that learnctl versions lists"
            raise Corrupt(f"{name}, an ancestor of {version}, is not in the database", hint=hint)
        found.update(filter(None, (row.dataset, str(row.manifest.get("dataset") or ""))))
        open_names.extend(_ancestors(row))
    return tuple(sorted(found))


def count(session: Session, hashes: Sequence[str], *, tenant: str, forbidden: Sequence[str]) -> dict[str, int]:
    """Records of these datasets by what is wrong with them today; `records` counts each once.

    Raises: Corrupt where a dataset is not in the database.
    """
    seqs = sorted({int(seq) for name in hashes for seq in _seqs(session, name)})
    near, counts = Near(forbidden), Counter[str]({"records": len(seqs)})
    for start in range(0, len(seqs), CHUNK):
        wanted = seqs[start : start + CHUNK]
        held = set(session.scalars(select(Held.seq).where(Held.seq.in_(wanted), _is_held())))
        records = list(session.scalars(select(Record).where(Record.seq.in_(wanted))))
        counts["erased"] += len(wanted) - len(records)
        alike = near.hits([prompt_text(record.body.get("messages") or ()) for record in records])
        counts["near_duplicate"] += sum(alike)
        for record in records:
            counts.update(_wrong(record, tenant, held))
    return dict(counts)


def _ancestors(row: VersionRow) -> list[str]:
    manifest = row.manifest
    named = [row.parent, row.base, manifest.get("base"), manifest.get("teacher"), *(manifest.get("parents") or ())]
    return [str(name) for name in named if name]


def _seqs(session: Session, name: str) -> list[int]:
    row = session.get(DatasetRow, name)
    if row is None:
        hint = "its lineage can't be proven: restore the database, or train again from an older version"
        raise Corrupt(f"the dataset {name[:12]} of the ancestry is not in the database", hint=hint)
    return list(row.seqs)


def _is_held() -> ColumnElement[bool]:
    """Held back and not released: a record that a person dropped may never teach either."""
    return or_(Held.ended.is_(None), Held.ending != "released")


def _wrong(record: Record, tenant: str, held: set[int]) -> Iterator[str]:
    if record.state == "erased":
        yield "erased"
    if record.state == "quarantined" or record.seq in held:
        yield "quarantined"
    if record.fold == "judge":
        yield "judge_fold"
    if not _consented(record, tenant):
        yield "unconsented"


def _consented(record: Record, tenant: str) -> bool:
    """The base may learn from shared records, and from those of no tenant; a tenant's slot from its own as well."""
    return record.consent == "shared" or (record.consent == "tenant" and record.tenant in ("", tenant))
