"""The log is recomputable by anybody, and an edit, however small, is found and named."""

import hashlib
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, LargeBinary, bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from daemon import schema
from daemon.audit import gaps, log
from daemon.tables import AuditRow
from feedback.db import connect, read, transact
from feedback.tables import Gap
from policies.errors import Corrupt, Refused
from tests import fresh


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/learnd.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = connect(url)
    fresh.migrate(made)
    yield made
    made.dispose()


def append(engine: Engine, count: int = 1, **more: Any) -> list[int]:
    said: dict[str, Any] = {"now": 1000.12345, "actor": "policy", "action": "promoted", "reason": "all passed", **more}
    return [transact(engine, lambda session: log.append(session, **said)) for _ in range(count)]


def unlock(engine: Engine) -> None:
    """What an administrator with the database's password can do."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE audit DISABLE TRIGGER ALL"))
        else:
            triggers = connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
            for name in list(triggers):
                connection.execute(text(f"DROP TRIGGER {name}"))


def overwrite(engine: Engine, index: int, column: str, value: Any) -> None:
    unlock(engine)
    with engine.begin() as connection:
        statement = text(f'UPDATE audit SET {column} = :value WHERE "index" = :index')
        if isinstance(value, bytes):
            statement = statement.bindparams(bindparam("value", type_=LargeBinary))
        connection.execute(statement, {"value": value, "index": index})


def stored(engine: Engine, index: int) -> AuditRow:
    def work(session: Session) -> AuditRow:
        row = session.get(AuditRow, index)
        assert row is not None
        return row

    return read(engine, work)


def recompute(path: Path) -> tuple[int, str, dict[str, Any]]:
    """Twenty lines of an auditor's own: RFC 9162 over the lines of the file, with nothing of learnd."""

    def root(leaves: list[bytes]) -> bytes:
        if len(leaves) < 2:
            return leaves[0] if leaves else hashlib.sha256(b"").digest()
        split = 1
        while split * 2 < len(leaves):
            split *= 2
        return hashlib.sha256(b"\x01" + root(leaves[:split]) + root(leaves[split:])).digest()

    *entries, end = path.read_bytes().splitlines()
    leaves = [hashlib.sha256(b"\x00" + entry).digest() for entry in entries]
    assert [json.loads(entry)["index"] for entry in entries] == list(range(len(entries)))
    return len(entries), root(leaves).hex(), json.loads(end)


def test_entries_are_numbered_and_hold(engine: Engine) -> None:
    assert append(engine, 9) == list(range(9))
    check = read(engine, log.verify)
    assert (check.ok, check.entries, check.at, check.error) == (True, 9, None, "")
    assert check.head == stored(engine, 8).root


def test_an_empty_log_holds(engine: Engine) -> None:
    assert read(engine, log.verify) == log.Check(True, 0, hashlib.sha256(b"").hexdigest())


def test_an_entry_is_canonical_json_of_what_was_done(engine: Engine) -> None:
    append(engine, deployment="bot", version="bot@000000000000", policy_hash="ab", facts={"b": 1, "a": [0.5]})
    entry = stored(engine, 0).entry
    said = json.loads(entry)
    assert entry.startswith(b'{"action":"promoted","actor":"policy","at":1000.123,"code":"')
    assert {key: said[key] for key in ("index", "deployment", "version", "policy_hash", "facts", "reason")} == {
        "index": 0,
        "deployment": "bot",
        "version": "bot@000000000000",
        "policy_hash": "ab",
        "facts": {"a": [0.5], "b": 1},
        "reason": "all passed",
    }
    assert len(said["code"]) == len(said["environment"]) == 64


@pytest.mark.parametrize(
    "odd", [2**63, -(2**60), 1e20, 1e21, 5e-324, -0.0, math.nan, math.inf, -math.inf, "\ud800", "a\u2028b\x00", None]
)
def test_no_odd_value_keeps_an_entry_from_the_log(engine: Engine, odd: Any) -> None:
    append(engine, facts={"odd": odd, "inside": [{"odd": odd}]}, reason=str(odd))
    assert read(engine, log.verify).ok


def test_an_entry_is_there_only_if_its_transaction_is(engine: Engine) -> None:
    append(engine, 2)

    def broken(session: Session) -> None:
        log.append(session, now=1.0, actor="a", action="b", reason="c")
        raise Refused("the act failed")

    with pytest.raises(Refused):
        transact(engine, broken)
    assert append(engine) == [2]
    assert read(engine, log.verify).ok


def test_several_entries_of_one_transaction_follow_each_other(engine: Engine) -> None:
    def work(session: Session) -> list[int]:
        return [log.append(session, now=1.0, actor="a", action="b", reason=str(n)) for n in range(5)]

    assert transact(engine, work) == [0, 1, 2, 3, 4]
    assert read(engine, log.verify).entries == 5


def test_appenders_at_once_never_fork_the_log(engine: Engine) -> None:
    def work(number: int) -> int:
        return transact(
            engine,
            lambda session: log.append(session, now=1.0, actor=str(number), action="b", reason="c"),
            attempts=100,
        )

    with ThreadPoolExecutor(6) as pool:
        indexes = list(pool.map(work, range(48)))
    assert sorted(indexes) == list(range(48))
    assert read(engine, log.verify) == log.Check(True, 48, stored(engine, 47).root)


def test_the_database_itself_refuses_changes(engine: Engine) -> None:
    append(engine, 3)
    for statement in ("UPDATE audit SET root = ''", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(text(statement))
    assert read(engine, log.verify).entries == 3


@pytest.mark.parametrize("index", [0, 4, 8])
def test_a_byte_changed_by_hand_is_found_and_its_entry_named(engine: Engine, index: int) -> None:
    append(engine, 9)
    entry = bytearray(stored(engine, index).entry)
    entry[entry.index(b"passed")] ^= 1
    overwrite(engine, index, "entry", bytes(entry))
    check = read(engine, log.verify)
    assert (check.ok, check.at) == (False, index)
    assert check.error == f"entry {index}: the stored leaf does not match its content"


@pytest.mark.parametrize("column", ["leaf", "root"])
def test_a_changed_hash_is_found(engine: Engine, column: str) -> None:
    append(engine, 9)
    overwrite(engine, 5, column, "0" * 64)
    check = read(engine, log.verify)
    assert (check.ok, check.at) == (False, 5)


def test_an_entry_rewritten_with_its_leaf_is_found_by_the_root(engine: Engine) -> None:
    append(engine, 9)
    entry = stored(engine, 3).entry.replace(b"all passed", b"all failed")
    overwrite(engine, 3, "entry", entry)
    overwrite(engine, 3, "leaf", hashlib.sha256(b"\x00" + entry).hexdigest())
    assert read(engine, log.verify).error == "entry 3: the stored root does not follow from the entries before it"


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (0, "entry 0: missing: the next stored entry is 1"),
        (4, "entry 4: missing: the next stored entry is 5"),
        (8, "entry 8: the log ends here, but 9 entries were appended"),
    ],
)
def test_a_removed_entry_is_found(engine: Engine, index: int, error: str) -> None:
    append(engine, 9)
    unlock(engine)
    with engine.begin() as connection:
        connection.execute(text('DELETE FROM audit WHERE "index" = :index'), {"index": index})
    check = read(engine, log.verify)
    assert (check.ok, check.at, check.error) == (False, index, error)


@pytest.mark.parametrize("harm", ["UPDATE audit SET root = 'x'", 'DELETE FROM audit WHERE "index" = 4'])
def test_nothing_is_appended_to_a_log_whose_end_does_not_hold(engine: Engine, harm: str) -> None:
    append(engine, 5)
    unlock(engine)
    with engine.begin() as connection:
        connection.execute(text(harm))
    with pytest.raises(Corrupt, match="entry 4"):
        append(engine)


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_anybody_can_recompute_an_export_in_twenty_lines(engine: Engine, tmp_path: Path, count: int) -> None:
    append(engine, count)
    path = tmp_path / "audit.jsonl"
    assert read(engine, lambda session: log.export(session, path)).entries == count
    size, root, end = recompute(path)
    assert end == {"size": size, "root": root, "checkpoint": None}
    assert log.verify_file(path) == read(engine, log.verify) == log.Check(True, count, root)
    assert [each.name for each in tmp_path.iterdir() if "audit" in each.name] == ["audit.jsonl"]


def exported(engine: Engine, tmp_path: Path) -> Path:
    append(engine, 6)
    path = tmp_path / "audit.jsonl"
    read(engine, lambda session: log.export(session, path))
    return path


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda lines: [lines[0].replace(b"passed", b"failed"), *lines[1:]], "the entries' root is"),
        (lambda lines: [*lines[:2], *lines[3:]], "entry 2: its content says it is entry 3"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "entry 0: its content says it is entry 1"),
        (lambda lines: [*lines[:5], lines[6]], "the last line states 6 entries, the file has 5"),
        (lambda lines: lines[:6], "the file ends without its last line"),
        (lambda lines: [*lines, lines[0]], "lines follow the last line"),
        (lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]], "entry 0: its content is not canonical JSON"),
        (lambda lines: [lines[0], b"", *lines[1:]], "entry 1: its content is not canonical JSON"),
        (lambda lines: [], "the file ends without its last line"),
    ],
)
def test_an_edited_export_is_refused_with_the_reason(tmp_path: Path, edit: Any, error: str) -> None:
    engine = connect(f"sqlite:///{tmp_path}/learnd.db")
    schema.migrate(engine)
    path = exported(engine, tmp_path)
    path.write_bytes(b"".join(line + b"\n" for line in edit(path.read_bytes().splitlines())))
    check = log.verify_file(path)
    assert not check.ok
    assert error in check.error
    engine.dispose()


def test_exporting_does_not_hide_an_edit(engine: Engine, tmp_path: Path) -> None:
    append(engine, 6)
    overwrite(engine, 2, "entry", stored(engine, 2).entry.replace(b"passed", b"failed"))
    path = tmp_path / "audit.jsonl"
    read(engine, lambda session: log.export(session, path))
    assert not log.verify_file(path).ok


def test_a_file_that_cannot_be_read_or_written_is_refused_with_a_hint(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="can't read"):
        log.verify_file(tmp_path / "nowhere")
    with pytest.raises(Refused, match="can't write"):
        read(engine, lambda session: log.export(session, tmp_path / "no" / "folder"))


def test_a_gap_is_audited_once(engine: Engine) -> None:
    def lost(session: Session) -> None:
        session.add(Gap(source="kafka://feedback", partition=2, first=10, last=19, at=5.0))

    transact(engine, lost)
    assert gaps.audit(engine, now=7.0) == 1
    assert gaps.audit(engine, now=8.0) == 0
    entry = json.loads(stored(engine, 0).entry)
    assert entry["action"] == "gap"
    assert entry["facts"] == {
        "source": "kafka://feedback",
        "partition": 2,
        "first": 10,
        "last": 19,
        "noticed": 5,
    }
    assert entry["reason"] == "10 records of kafka://feedback, partition 2, were gone before they were read"


def test_appending_costs_the_logarithm_of_the_log(engine: Engine) -> None:
    append(engine, 40)
    assert [len(stored(engine, index).frontier) for index in (0, 1, 2, 6, 7, 31, 39)] == [1, 1, 2, 3, 1, 1, 2]


def test_a_gap_of_unknown_length_says_where_it_begins(engine: Engine) -> None:
    transact(engine, lambda session: session.add(Gap(source="feedback", partition=2, first=10, last=-1, at=5.0)))
    gaps.audit(engine, now=7.0)
    entry = json.loads(stored(engine, 0).entry)
    assert entry["facts"]["last"] is None
    assert entry["reason"] == "what feedback, partition 2, held from offset 10 on was gone before it was read"
