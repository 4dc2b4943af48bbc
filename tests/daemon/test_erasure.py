"""What was erased is gone from every file, the versions that learned from it are listed, and an interruption is nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from daemon import erasure
from daemon.audit import log
from daemon.tables import AuditRow, Cycle, MeasurementRow, Setting, VersionRow
from feedback.db import connect, read, transact
from feedback.tables import DatasetRow, Record, Tombstone
from policies.errors import Refused
from tests import fresh

TOUCHED, CLEAN = "a" * 64, "b" * 64


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/learnd.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = connect(url)
    fresh.migrate(made)
    yield made
    made.dispose()


def lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder whose files hold records 1 to 3; 1 and 2 (named r1, r2) are the ones to be erased."""
    state = tmp_path / "state"
    train = [{"seq": seq, "completion": f"said {seq}"} for seq in (1, 2, 2, 3, None)]
    lines(state / "datasets" / TOUCHED / "train.jsonl", train)
    lines(state / "datasets" / CLEAN / "train.jsonl", [{"seq": 3, "completion": "said 3"}])
    lines(state / "evaluations" / "job" / "judge.jsonl", [{"id": "r1", "messages": []}, {"id": "r3", "messages": []}])
    lines(state / "evaluations" / "job" / "goldens.jsonl", [{"id": "r1", "messages": []}])
    answers = [{"set": "judge", "item": "r2"}, {"set": "goldens", "item": "r2"}, {"set": "judge", "item": "r3"}]
    lines(state / "jobs" / "job" / "measurements.jsonl", answers)
    lines(state / "jobs" / "job" / "progress.jsonl", ["not json", "[1]", '{"step": 1}'])
    lines(state / "cache" / "0123abcd" / "answers.json", ["{}"])
    lines(state / "cache" / "evaluations" / "4567.jsonl", ['{"item": "r1"}'])
    return state


def record(seq: int, name: str) -> Record:
    return Record(
        seq=seq,
        deployment="bot",
        id=name,
        kind="feedback",
        time=1.0,
        ingested=1.0,
        fold="train",
        content_hash="",
        commitment="",
        features={},
        body={},
        source="",
    )


def version(name: str, **more: Any) -> VersionRow:
    manifest = {"parents": more.pop("parents", []), "teacher": more.pop("teacher", "")}
    given = {"deployment": "bot", "kind": "base", "base": "", "state": "retired", "created": 1.0, **more}
    return VersionRow(name=name, manifest=manifest, **given)


def cycle(**more: Any) -> Cycle:
    given = {"slot": 1, "trigger": "", "reason": "", "method": "", "step": "", "window_first": 0, "window_last": 9}
    return Cycle(**{**given, **more}, seed=1, policy_hash="", started=1.0)


@pytest.fixture
def erased(engine: Engine) -> None:
    """Records 1 and 2 were erased by the store, which left a tombstone."""

    def work(session: Session) -> None:
        session.add_all([record(1, "r1"), record(2, "r2"), record(3, "r3")])
        session.add(DatasetRow(hash=TOUCHED, deployment="bot", created=1.0, card={}, seqs=[1, 2, 3]))
        session.add(DatasetRow(hash=CLEAN, deployment="bot", created=1.0, card={}, seqs=[3]))
        session.add(DatasetRow(hash="c" * 64, deployment="other", created=1.0, card={}, seqs=[1]))
        session.add_all(
            [
                version("first"),
                version("learned", dataset=TOUCHED, parents=["first"]),
                version("child", dataset=CLEAN, parents=["learned"]),
                version("student", teacher="child"),
                version("adapter", kind="adapter", base="student"),
                version("apart", dataset=CLEAN, parents=["first"]),
            ]
        )
        for item in ("r1", "r3"):
            session.add(
                MeasurementRow(
                    evaluation="job", probe="improvement", set="judge", item=item, slice="", version="v",
                    value=1.0, seed=0, environment="", said="an answer to what the user asked",
                )
            )  # fmt: skip
        session.add(Tombstone(deployment="bot", request="user:abc", seqs=[1, 2], versions=[], at=5.0))

    transact(engine, work)


def tombstone(engine: Engine) -> Tombstone:
    return read(engine, lambda session: session.scalars(select(Tombstone)).one())


def entries(engine: Engine) -> list[Any]:
    return read(engine, lambda session: [json.loads(row.entry) for row in session.scalars(select(AuditRow))])


def settle(engine: Engine, state: Path) -> int:
    return erasure.settle(engine, state / "datasets", now=9.0)


@pytest.mark.usefixtures("erased")
def test_erased_records_go_from_every_file_and_nothing_else_does(engine: Engine, state: Path) -> None:
    untouched = [state / "datasets" / CLEAN / "train.jsonl", state / "evaluations" / "job" / "goldens.jsonl"]
    untouched += [state / "jobs" / "job" / "progress.jsonl", state / "cache" / "evaluations" / "4567.jsonl"]
    before = [path.read_bytes() for path in untouched if path.is_file()]
    assert settle(engine, state) == 1
    assert [row["seq"] for row in rows(state / "datasets" / TOUCHED / "train.jsonl")] == [3, None]
    assert [row["id"] for row in rows(state / "evaluations" / "job" / "judge.jsonl")] == ["r3"]
    answered = [(row["set"], row["item"]) for row in rows(state / "jobs" / "job" / "measurements.jsonl")]
    assert answered == [("goldens", "r2"), ("judge", "r3")]
    assert [path.name for path in (state / "cache").iterdir()] == ["evaluations"]
    assert [path.read_bytes() for path in untouched if path.is_file()] == before
    assert all(path.exists() for path in untouched)


@pytest.mark.usefixtures("erased")
def test_recorded_answers_go_and_their_numbers_stay(engine: Engine, state: Path) -> None:
    settle(engine, state)
    found = read(engine, lambda s: {row.item: (row.value, row.said) for row in s.scalars(select(MeasurementRow))})
    assert found == {"r1": (1.0, ""), "r3": (1.0, "an answer to what the user asked")}


@pytest.mark.usefixtures("erased")
def test_versions_that_learned_from_it_and_all_their_descendants_are_listed(engine: Engine, state: Path) -> None:
    settle(engine, state)
    assert tombstone(engine).versions == ["adapter", "child", "learned", "student"]
    assert tombstone(engine).settled


@pytest.mark.usefixtures("erased")
def test_the_audit_log_has_it_once_with_numbers_and_no_person(engine: Engine, state: Path) -> None:
    assert [settle(engine, state), settle(engine, state)] == [1, 0]
    (entry,) = entries(engine)
    assert (entry["action"], entry["deployment"]) == ("erased", "bot")
    assert entry["reason"] == "2 records erased; 4 versions had learned from them"
    assert entry["facts"] == {
        "tombstone": 1,
        "asked": 5,
        "records": 2,
        "datasets": [TOUCHED],
        "lines": 5,
        "versions": ["adapter", "child", "learned", "student"],
    }
    assert "abc" not in json.dumps(entry)
    assert read(engine, log.verify).ok


@pytest.mark.usefixtures("erased")
def test_an_interruption_before_the_end_is_done_again(engine: Engine, state: Path, tmp_path: Path) -> None:
    found = read(engine, lambda session: erasure.touched(session, session.scalars(select(Tombstone)).one()))
    cleaned = erasure.clean_files(state / "datasets", found)  # and here the power went
    assert cleaned == 5
    assert settle(engine, state) == 1
    assert tombstone(engine).versions == ["adapter", "child", "learned", "student"]


@pytest.mark.usefixtures("erased")
def test_a_running_cycle_holds_the_end_but_not_the_cleaning(engine: Engine, state: Path) -> None:
    transact(engine, lambda session: session.add(cycle(dataset=TOUCHED)))
    assert [settle(engine, state), settle(engine, state)] == [0, 0]
    assert [row["seq"] for row in rows(state / "datasets" / TOUCHED / "train.jsonl")] == [3, None]
    assert entries(engine) == []

    def ends(session: Session) -> None:
        session.scalars(select(Cycle)).one().ended = 8.0
        session.add(version("late", dataset=TOUCHED))

    transact(engine, ends)
    lines(state / "jobs" / "late" / "measurements.jsonl", [{"set": "judge", "item": "r1"}])
    assert settle(engine, state) == 1
    assert "late" in tombstone(engine).versions
    assert entries(engine)[0]["facts"]["lines"] == 6
    assert read(engine, lambda s: [row.name for row in s.scalars(select(Setting)) if "erasure" in row.name]) == []


@pytest.mark.usefixtures("erased")
def test_a_running_distillation_keeps_its_lesson_until_it_has_ended(engine: Engine, state: Path) -> None:
    transact(engine, lambda session: session.add(cycle(dataset=CLEAN, method="distill")))
    assert settle(engine, state) == 0
    assert (state / "cache" / "0123abcd").is_dir()

    def ends(session: Session) -> None:
        session.scalars(select(Cycle)).one().ended = 8.0

    transact(engine, ends)
    assert settle(engine, state) == 1
    assert not (state / "cache" / "0123abcd").exists()


def test_nothing_to_erase_is_nothing_to_do(engine: Engine, state: Path) -> None:
    assert settle(engine, state) == 0
    assert entries(engine) == []


def test_an_erasure_of_what_nobody_learned_from_is_settled_too(engine: Engine, state: Path) -> None:
    transact(engine, lambda s: s.add(Tombstone(deployment="bot", request="id:x", seqs=[77], versions=[], at=5.0)))
    assert settle(engine, state) == 1
    assert entries(engine)[0]["reason"] == "1 records erased; 0 versions had learned from them"


@pytest.mark.usefixtures("erased")
def test_an_erasure_is_settled_only_together_with_its_entry(engine: Engine, state: Path) -> None:
    def fails(session: Session) -> None:
        session.scalars(select(Tombstone)).one().settled = True
        raise Refused("the transaction failed")

    with pytest.raises(Refused):
        transact(engine, fails)
    assert settle(engine, state) == 1
    assert len(entries(engine)) == 1
