"""The audit log: entries appended in the caller's transaction, and proof that nobody edited them since.

Owns: the form of an entry, the one appender, verification of a database or of an exported file. Refuses to know why
something was done, and to repair. Called by `daemon.loop` and every module whose act compliance must see;
`learnctl audit` reads. An entry holds no text of users: its callers pass numbers, names and hashes.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from daemon import environment
from daemon.audit import tree
from daemon.codec import canonical, is_canonical
from daemon.files import write_atomically
from daemon.tables import AuditRow, Setting
from feedback.statements import insert
from policies.errors import Corrupt, Refused

SIZE = "audit_size"
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Check:
    """What verification found: `entries` that hold, the tree's `head` (hex root) over them, the first bad index."""

    ok: bool
    entries: int
    head: str
    at: int | None = None
    error: str = ""


def append(
    session: Session,
    *,
    now: float,
    actor: str,
    action: str,
    reason: str,
    deployment: str = "",
    version: str = "",
    policy_hash: str = "",
    facts: Mapping[str, Any] | None = None,
) -> int:
    """Append one entry in the caller's transaction and return its index; costs O(log entries).

    `now` in unix seconds (kept to the millisecond); `facts` is JSON-like. Tree: RFC 9162; entry: RFC 8785.
    Raises: Corrupt where the log's end doesn't hold, since nothing may be built on it.
    """
    index, frontier = _end(session)
    said = {"actor": actor, "action": action, "reason": reason, "deployment": deployment, "version": version}
    ran = {"code": environment.code_digest(), "environment": environment.digest()}
    facts = {"policy_hash": policy_hash, "facts": dict(facts or {})}
    entry = canonical({"index": index, "at": round(now, 3), **said, **facts, **ran})
    leaf = tree.leaf_hash(entry)
    after = tree.extend(frontier, index, leaf)
    root = tree.frontier_root(after).hex()
    kept = {
        "index": index,
        "entry": entry,
        "leaf": leaf.hex(),
        "root": root,
        "frontier": [each.hex() for each in after],
    }
    session.execute(insert(session, AuditRow).values(kept))
    return index


def verify(session: Session) -> Check:
    """Recompute every leaf and root of the stored log, and name the first entry that doesn't hold."""
    frontier: tree.Frontier = ()
    size = 0
    rows = session.scalars(select(AuditRow).order_by(AuditRow.index).execution_options(yield_per=BATCH))
    with closing(rows):
        for row in rows:
            error, after = _check(row, size, frontier)
            if error:
                return Check(False, size, tree.frontier_root(frontier).hex(), size, f"entry {size}: {error}")
            frontier, size = after, size + 1
    head = tree.frontier_root(frontier).hex()
    counted = session.get(Setting, SIZE)
    if int(counted.value if counted else 0) != size:
        stated = counted.value if counted else "0"
        return Check(False, size, head, size, f"entry {size}: the log ends here, but {stated} entries were appended")
    return Check(True, size, head)


def export(session: Session, path: Path) -> Check:
    """Write the log as JSON Lines: the entries' bytes in order, then `size`, `root` and the newest `checkpoint`.

    The file appears whole or not at all. The stored root is stated as it is: exporting never hides an edit.
    Raises: Refused where the file can't be written.
    """
    last = session.execute(select(AuditRow.index, AuditRow.root).order_by(AuditRow.index.desc()).limit(1)).first()
    root = last.root if last else tree.EMPTY.hex()
    counted = [0]
    try:
        write_atomically(path, _lines(session, root, counted))
    except OSError as error:
        raise Refused(
            f"can't write {path}: {error.strerror}", hint="name a file in a folder you may write to"
        ) from error
    return Check(True, counted[0], root)


def verify_file(path: Path) -> Check:
    """Recompute an exported log without a database: every entry's form and place, and the root of the last line.

    Raises: Refused where the file can't be read.
    """
    frontier: tree.Frontier = ()
    size = 0
    try:
        with path.open("rb") as file:
            for line in file:
                text = line.removesuffix(b"\n")
                if (end := _end_line(text)) is not None:
                    return _check_end(end, size, frontier, file.read(1) != b"")
                if error := _check_entry(text, size):
                    head = tree.frontier_root(frontier).hex()
                    return Check(False, size, head, size, f"entry {size}: {error}")
                frontier, size = tree.extend(frontier, size, tree.leaf_hash(text)), size + 1
    except OSError as error:
        raise Refused(f"can't read {path}: {error.strerror}", hint="learnctl audit export FILE writes one") from error
    error_text = "the file ends without its last line (size, root): it was cut"
    return Check(False, size, tree.frontier_root(frontier).hex(), size, error_text)


def _end(session: Session) -> tuple[int, tree.Frontier]:
    """Lock the log's end, count one more entry, and return the index to write and the frontier before it.

    The counter's row is the lock: on PostgreSQL a second appender waits and is then told to start over (40001), since
    its snapshot is too old; SQLite has one writer anyway.
    """
    size = _lock(session)
    rows = session.execute(
        select(AuditRow.index.label("place"), AuditRow.root, AuditRow.frontier)
        .where(AuditRow.index >= size - 1)
        .order_by(AuditRow.index)
        .limit(2)
    ).all()
    frontier = tuple(bytes.fromhex(each) for row in rows[:1] for each in row.frontier)
    sound = [row.place for row in rows] == ([size - 1] if size else []) and len(frontier) == size.bit_count()
    if not sound or (rows and tree.frontier_root(frontier).hex() != rows[0].root):
        raise Corrupt(
            f"the audit log's end (entry {size - 1}) doesn't hold: nothing is appended to it",
            hint="run learnctl audit verify, and compare with the newest export",
        )
    session.execute(update(Setting).where(Setting.name == SIZE).values(value=str(size + 1)))
    return size, frontier


def _lock(session: Session) -> int:
    """The number of entries, locked until the transaction ends."""
    query = select(Setting.value).where(Setting.name == SIZE).with_for_update()
    found = session.scalar(query)
    if found is None:
        session.execute(insert(session, Setting).values(name=SIZE, value="0").on_conflict_do_nothing())
        found = session.scalar(query)
    return int(found or 0)


def _check(row: AuditRow, index: int, frontier: tree.Frontier) -> tuple[str, tree.Frontier]:
    """Why `row` can't be entry `index` after `frontier` ("" if it can), and the frontier after it."""
    if row.index != index:
        return f"missing: the next stored entry is {row.index}", frontier
    leaf = tree.leaf_hash(row.entry)
    if leaf.hex() != row.leaf:
        return "the stored leaf does not match its content", frontier
    if error := _check_entry(row.entry, index):
        return error, frontier
    after = tree.extend(frontier, index, leaf)
    if tree.frontier_root(after).hex() != row.root:
        return "the stored root does not follow from the entries before it", frontier
    if [each.hex() for each in after] != row.frontier:
        return "the stored frontier does not follow from the entries before it", frontier
    return "", after


def _check_entry(text: bytes, index: int) -> str:
    if not is_canonical(text):
        return "its content is not canonical JSON (RFC 8785)"
    entry = json.loads(text)
    if not isinstance(entry, dict) or entry.get("index") != index:
        return f"its content says it is entry {entry.get('index') if isinstance(entry, dict) else 'nothing'}"
    return ""


def _lines(session: Session, root: str, counted: list[int]) -> Iterator[bytes]:
    entries = session.scalars(select(AuditRow.entry).order_by(AuditRow.index).execution_options(yield_per=BATCH))
    with closing(entries):
        for entry in entries:
            counted[0] += 1
            yield entry + b"\n"
    yield canonical({"size": counted[0], "root": root, "checkpoint": None}) + b"\n"


def _end_line(text: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, dict) and {"size", "root", "checkpoint"} == set(value):
            return value
    return None


def _check_end(end: dict[str, Any], size: int, frontier: tree.Frontier, more: bool) -> Check:
    head = tree.frontier_root(frontier).hex()
    if more:
        return Check(False, size, head, size, "lines follow the last line (size, root)")
    if end["size"] != size:
        return Check(False, size, head, size, f"the last line states {end['size']} entries, the file has {size}")
    if end["root"] != head:
        return Check(False, size, head, None, f"the entries' root is {head}, the last line states {end['root']}")
    return Check(True, size, head)
