"""Ingest: one transaction a batch, whatever fails; erasures; duplicates told from conflicts; the loop's pauses."""

import json
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select, text

from daemon.testing import FakeSource
from feedback import db, store
from feedback.ingest import Ingest, IngestReport
from feedback.keys import user_hash
from feedback.positions import Positions
from feedback.sources import Position, Raw
from feedback.tables import Base, DeadLetter, Gap, Offset, Record, Sketch, Tombstone
from policies.errors import Transient
from tests.feedback.support import NOW, SETTINGS, wire

Feed = Callable[..., IngestReport]


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def feed(engine: Engine, source: FakeSource) -> Feed:
    """Put messages into the source and take one step."""
    ingest = Ingest(engine, source, SETTINGS, lambda: NOW)

    def step(*values: bytes) -> IngestReport:
        source.put(*values)
        return ingest.step()

    return step


def records(engine: Engine) -> dict[str, Record]:
    return db.read(engine, lambda session: {row.id: row for row in session.scalars(select(Record))})


def letters(engine: Engine) -> list[DeadLetter]:
    return db.read(engine, lambda session: list(session.scalars(select(DeadLetter).order_by(DeadLetter.id))))


def everything(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {
            name: connection.scalar(select(func.count()).select_from(t)) for name, t in Base.metadata.tables.items()
        }


def test_a_record_is_stored_with_all_that_belongs_to_it(engine: Engine, feed: Feed, source: FakeSource) -> None:
    report = feed(wire(features={"ms": 10}, user="bob"))
    assert report == IngestReport(read=1, stored=1)
    row = records(engine)["r-1"]
    assert (row.seq, row.state, row.ingested, row.source, row.offset) == (1, "live", NOW, "feedback", 0)
    assert row.body["response"] == "In the app."
    assert everything(engine)["sketches"] == 8  # six columns, how many records there are, and what they asked
    assert db.read(engine, lambda session: store.counters(session, "bot"))["stored"] == 1
    assert [position.next for position in source.positions] == [1]


def test_repeats_are_duplicates_and_changed_ones_conflicts(engine: Engine, feed: Feed) -> None:
    one, changed = wire(id="r-1"), wire(id="r-1", rating=-1)
    assert feed(one, one, changed) == IngestReport(read=3, stored=1, duplicates=1, dead_letters=1, conflicts=1)
    assert feed(changed, one) == IngestReport(read=2, duplicates=1, dead_letters=1, conflicts=1)
    assert {letter.reason for letter in letters(engine)} == {"conflict"}
    assert records(engine)["r-1"].rating == 1.0


def test_the_same_id_may_stand_in_two_deployments(feed: Feed) -> None:
    assert feed(wire(), wire(deployment="strict")).stored == 2


def test_a_refused_message_becomes_a_dead_letter_with_its_origin(engine: Engine, feed: Feed) -> None:
    report = feed(wire(), b"{", wire(id="r-2", rating=9))
    assert (report.stored, report.dead_letters) == (1, 2)
    first, second = letters(engine)
    assert (first.reason, first.offset, first.source, first.deployment) == ("invalid_json", 1, "feedback", "")
    assert (second.reason, second.field, second.offset, second.deployment) == ("range", "rating", 2, "bot")
    assert second.record == "r-2"
    assert db.read(engine, lambda session: store.counters(session, "bot"))["dead_letters"] == 1
    assert db.read(engine, lambda session: store.counters(session, ""))["dead_letters"] == 1


def test_a_batch_is_stored_whole_or_not_at_all(engine: Engine, source: FakeSource) -> None:
    failing = ["sketches", "dead_letters", "counters", "offsets"]

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if failing and f"INSERT INTO {failing[0]}" in statement:
            failing.pop(0)
            raise Transient("the power is gone")

    event.listen(engine, "before_cursor_execute", fail)
    ingest = Ingest(engine, source, SETTINGS, lambda: NOW)
    source.put(wire(), b"{")
    before = everything(engine)
    while failing:
        with pytest.raises(Transient):
            ingest.step()
        assert everything(engine) == before
    assert ingest.step() == IngestReport(read=2, stored=1, dead_letters=1)


def test_what_was_stored_is_not_stored_again_when_it_is_read_again(engine: Engine) -> None:
    first = Ingest(engine, FakeSource([wire(), b"{"]), SETTINGS, lambda: NOW)
    again = Ingest(engine, FakeSource([wire(), b"{", wire(id="r-2")]), SETTINGS, lambda: NOW)
    first.step()
    assert again.step() == IngestReport(read=1, stored=1, fenced=2)
    assert len(letters(engine)) == 1


def test_a_zombie_stores_nothing(engine: Engine) -> None:
    positions = Positions(engine, "me", lambda: NOW)
    old = positions.claim("c", "t", "id", 0)
    new = positions.claim("c", "t", "id", 0)

    def raw(offset: int, generation: int) -> Raw:
        return Raw(wire(id=f"r-{offset}"), (), "t", "id", "c", 0, offset, offset + 1, generation)

    zombie, owner = FakeSource(), FakeSource()
    zombie.add(raw(0, old.generation), raw(1, old.generation))
    owner.add(raw(0, new.generation))
    assert Ingest(engine, zombie, SETTINGS, lambda: NOW).step() == IngestReport(fenced=2)
    assert zombie.lost == [Position("c", "t", "id", 0, 2, old.generation)]
    assert Ingest(engine, owner, SETTINGS, lambda: NOW).step().stored == 1
    assert list(records(engine)) == ["r-0"]
    assert positions.claim("c", "t", "id", 0).next == 1


def test_a_topic_made_anew_starts_anew_and_leaves_a_gap(engine: Engine) -> None:
    positions = Positions(engine, "me", lambda: NOW)
    claim = positions.claim("c", "t", "one", 0)
    source = FakeSource()
    source.add(Raw(wire(), (), "t", "one", "c", 0, 7, 8, claim.generation))
    Ingest(engine, source, SETTINGS, lambda: NOW).step()
    assert positions.claim("c", "t", "two", 0).next is None
    with engine.connect() as connection:
        assert connection.execute(select(Gap.first, Gap.last)).all() == [(8, -1)]


def test_the_latest_signal_of_a_user_on_an_interaction_counts(engine: Engine, feed: Feed) -> None:
    def signal(id: str, **changes: Any) -> bytes:
        return wire(id=id, interaction="i", **({"user": "bob"} | changes))

    feed(signal("a"), signal("b", user="eve"), signal("c", rating=-1), signal("d", user=...))
    feed(signal("e", rating=..., correction="Better."), wire(id="f", interaction="j", user="bob"))
    states = {id: row.state for id, row in records(engine).items()}
    assert states == {"a": "superseded", "b": "live", "c": "superseded", "d": "live", "e": "live", "f": "live"}


@pytest.mark.parametrize("wish", [{"ids": ["r-1", "r-2"]}, {"user": "bob"}])
def test_an_erasure_empties_content_and_keeps_tombstone_and_commitment(engine: Engine, feed: Feed, wish: Any) -> None:
    commitments = {}
    feed(*(wire(id=f"r-{n}", user="bob", interaction=f"i-{n}", comment="secret", features={"x": 1}) for n in (1, 2)))
    feed(wire(id="r-3", user="eve", comment="kept"))
    commitments = {id: row.commitment for id, row in records(engine).items()}
    erase = wire(id="e-1", kind="erase", erase=wish)
    assert feed(erase).erased == 2
    assert feed(erase).erased == 0
    for id in ("r-1", "r-2"):
        row = records(engine)[id]
        assert (row.state, row.body, row.features, row.rating, row.usable) == ("erased", {}, {}, None, "")
        assert (row.commitment_key, row.prompt_hash, row.content_hash, row.user_hash, row.interaction) == ("",) * 5
        assert row.commitment == commitments[id]
    assert records(engine)["r-3"].body["comment"] == "kept"
    stones = db.read(engine, lambda session: list(session.scalars(select(Tombstone))))
    assert sorted(seq for stone in stones for seq in stone.seqs) == [1, 2]
    assert {tuple(stone.versions) for stone in stones} == {()}
    assert "secret" not in dump(engine)


def test_what_arrives_after_its_erasure_is_refused(engine: Engine, feed: Feed) -> None:
    feed(wire(id="e-1", kind="erase", erase={"ids": ["r-1"]}))
    report = feed(wire(id="r-1", comment="secret"), wire(id="r-2"))
    assert (report.stored, report.dead_letters) == (1, 1)
    assert letters(engine)[0].reason == "erased"
    assert "secret" not in dump(engine)
    assert db.read(engine, lambda session: store.counters(session, "bot"))["stored"] == 1


def test_an_erased_user_s_earlier_records_are_refused_and_later_ones_taken(engine: Engine, feed: Feed) -> None:
    feed(wire(id="e-1", kind="erase", erase={"user": "bob"}, time="2026-11-17T12:00:00Z"))
    early = wire(id="r-1", user="bob", time="2026-11-17T11:00:00Z", comment="secret")
    late = wire(id="r-2", user="bob", time="2026-11-17T13:00:00Z")
    assert feed(early, late).stored == 1
    assert letters(engine)[0].reason == "erased"
    assert "secret" not in dump(engine)


def test_an_erasure_between_two_records_of_one_batch_acts_in_their_order(engine: Engine, feed: Feed) -> None:
    report = feed(wire(id="a"), wire(id="e", kind="erase", erase=["a", "b"]), wire(id="b"), wire(id="a"))
    assert (report.stored, report.erased, report.dead_letters) == (1, 1, 2)


def test_an_erasure_empties_dead_letters_too(engine: Engine, feed: Feed) -> None:
    feed(wire(id="r-1", rating=9, comment="secret"), wire(id="r-2", user="bob", rating=9, comment="secret"))
    feed(wire(id="e-1", kind="erase", erase={"ids": ["r-1"]}), wire(id="e-2", kind="erase", erase={"user": "bob"}))
    assert [letter.body for letter in letters(engine)] == ["", ""]
    assert user_hash("bob", SETTINGS.user_key) not in [letter.user_hash for letter in letters(engine)]


def test_erasures_are_taken_from_their_own_topic_only_where_one_is_named(engine: Engine) -> None:
    from dataclasses import replace

    strict = replace(SETTINGS, erase_sources=frozenset({"erasures"}))
    erase = wire(id="e-1", kind="erase", erase=["r-1"])
    report = Ingest(engine, FakeSource([wire(), erase]), strict, lambda: NOW).step()
    assert (report.stored, report.erased, report.dead_letters) == (1, 0, 1)
    assert letters(engine)[0].reason == "misplaced"
    assert Ingest(engine, FakeSource([erase], source="erasures"), strict, lambda: NOW).step().erased == 1


def test_sketches_are_kept_by_block_of_a_hundred_and_weekday(engine: Engine, feed: Feed) -> None:
    feed(*(wire(id=f"r-{n}", features={"ms": 10.0 + n, "shop": f"t{n % 3}"}) for n in range(60)))
    feed(*(wire(id=f"r-{n}", rating=-1, features={"ms": 10.0, "shop": "t9"}) for n in range(60, 120)))
    with engine.connect() as connection:
        rows = connection.execute(select(Sketch.block, Sketch.kind, Sketch.column, Sketch.counts))
        kept = {(block, kind, column): counts for block, kind, column, counts in rows}
    assert {column for _, kind, column in kept if kind == "feedback"} == {
        "", "ms", "shop", "prompt_length", "response_length", "language", "topic",
    }  # fmt: skip
    assert {day for (_, kind, _), counts in kept.items() for day in counts if "/" not in kind} == {"2"}  # a Wednesday
    topics: Tally[str] = Tally()
    for block in (0, 1):
        topics += Tally({name: n for name, n in kept[block, "feedback", "shop"]["2"].items() if name != "n"})
    assert topics == {"=t0": 20, "=t1": 20, "=t2": 20, "=t9": 60}
    assert [kept[block, "feedback", ""]["2"]["n"] for block in (0, 1)] == [99, 21]
    ratings = [kept[block, "outcomes", ""]["2"] for block in (0, 1)]
    assert (sum(day["n"] for day in ratings), sum(day["bad"] for day in ratings)) == (120, 60)
    assert sum(day["-shop=t9"] for day in ratings) == 60


def test_each_question_is_kept_once_a_block_by_its_keyed_hash_and_repeats_change_nothing(
    engine: Engine, feed: Feed
) -> None:
    asked = [("r-1", "Where is it?"), ("r-2", "where is IT"), ("r-3", "And now?")]
    wires = [
        wire(id=name, messages=[{"role": "user", "content": text}], features={"/questions": 1.0, "hashes": "a"})
        for name, text in asked
    ]
    feed(*wires)
    feed(wire(id="e-1", kind="exposure", messages=..., rating=..., response="Yes."))
    before = questions(engine)
    hashes = {int(row.prompt_hash[-10:], 16) for row in records(engine).values() if row.prompt_hash}
    assert before == {
        "feedback/questions": {"": {"n": 3, "hashes": sorted(hashes)}},
        "exposure/questions": {"": {"n": 1, "hashes": []}},
    }
    assert len(hashes) == 2
    feed(*wires)
    assert questions(engine) == before
    feed(wire(id="r-4", messages=[{"role": "user", "content": "And now"}]))
    assert questions(engine)["feedback/questions"][""] == {"n": 4, "hashes": sorted(hashes)}


def test_an_erasure_takes_a_question_out_of_its_block_unless_another_record_asked_it(
    engine: Engine, feed: Feed
) -> None:
    texts = {"a": "Only bob asks this?", "b": "We both do!", "c": "we both do", "d": "Another one"}
    feed(*(wire(id=name, messages=[{"role": "user", "content": text}]) for name, text in texts.items()))
    kept = {int(row.prompt_hash[-10:], 16) for name, row in records(engine).items() if name != "a"}
    feed(wire(id="e", kind="erase", erase=["a", "b"]))
    assert questions(engine) == {"feedback/questions": {"": {"n": 4, "hashes": sorted(kept)}}}
    assert len(kept) == 2


def questions(engine: Engine) -> dict[str, Any]:
    with engine.connect() as connection:
        found = connection.execute(select(Sketch.kind, Sketch.counts).where(Sketch.kind.endswith("/questions")))
        return {row.kind: row.counts for row in found}


@pytest.mark.slow
def test_the_loop_pauses_while_the_database_is_away_and_loses_nothing(engine: Engine, source: FakeSource) -> None:
    stop, away = threading.Event(), [3]

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if away[0] and "INSERT INTO records" in statement:
            away[0] -= 1
            assert source.paused == (away[0] < 2)
            raise Transient("the database is away")

    def stored(_connection: Any) -> None:
        if not away[0]:
            stop.set()

    event.listen(engine, "before_cursor_execute", fail)
    event.listen(engine, "commit", stored)
    source.put(wire(), wire(id="r-2"))
    ingest = Ingest(engine, source, SETTINGS, lambda: NOW)
    ingest.run(stop)
    assert away == [0]
    assert set(records(engine)) == {"r-1", "r-2"}
    assert not source.paused
    assert ingest.trouble == ""


def test_a_value_that_the_database_refuses_is_buried_and_the_others_kept(engine: Engine, source: FakeSource) -> None:
    forbid = {
        "sqlite": "CREATE TRIGGER no BEFORE INSERT ON records WHEN NEW.id = 'poison' BEGIN SELECT RAISE(ABORT, 'no'); END",
        "postgresql": "ALTER TABLE records ADD CHECK (id <> 'poison')",
    }
    with engine.begin() as connection:
        connection.execute(text(forbid[engine.dialect.name]))
    source.put(*(wire(id="poison" if n == 5 else f"r-{n}") for n in range(9)))
    report = Ingest(engine, source, SETTINGS, lambda: NOW).step()
    assert (report.read, report.stored, report.dead_letters) == (9, 8, 1)
    assert [(letter.reason, letter.offset) for letter in letters(engine)] == [("unstorable", 5)]


def test_positions_are_those_of_the_last_message_of_each_partition(engine: Engine, source: FakeSource) -> None:
    for partition, offset in ((0, 0), (1, 0), (0, 1), (1, 5)):
        source.add(Raw(wire(id=f"{partition}-{offset}"), (), "t", "id", "c", partition, offset, offset + 1, 0))
    Ingest(engine, source, SETTINGS, lambda: NOW).step()
    with engine.connect() as connection:
        rows: Iterable[Any] = connection.execute(select(Offset.partition, Offset.next).order_by(Offset.partition))
        assert [tuple(row) for row in rows] == [(0, 2), (1, 6)]


def dump(engine: Engine) -> str:
    """All that the database holds, as text."""
    with engine.connect() as connection:
        tables = Base.metadata.tables.values()
        return json.dumps([[list(map(str, row)) for row in connection.execute(select(table))] for table in tables])
