"""Quarantine: held, released, dropped, and never lost in silence; on both databases."""

from typing import Any

import pytest
from sqlalchemy import Engine, select

from daemon.testing import FakeSource
from feedback import db, quarantine, store
from feedback.ingest import Ingest
from feedback.tables import Record
from tests.feedback.support import NOW, SETTINGS, wire


@pytest.fixture
def ingest(engine: Engine) -> Ingest:
    ingest = Ingest(engine, FakeSource([wire(id=f"r-{n}", user=f"u-{n}") for n in range(1, 5)]), SETTINGS, lambda: NOW)
    ingest.step()
    return ingest


def do(engine: Engine, act: Any, *arguments: Any) -> Any:
    return db.transact(engine, lambda session: act(session, *arguments))


def states(engine: Engine) -> list[str]:
    return db.read(engine, lambda session: list(session.scalars(select(Record.state).order_by(Record.seq))))


def test_held_records_are_listed_and_come_back(engine: Engine, ingest: Ingest) -> None:
    assert do(engine, quarantine.hold, [1, 2, 99], "a brigade", NOW) == 2
    assert do(engine, quarantine.hold, [1], "again", NOW) == 0
    assert states(engine) == ["quarantined", "quarantined", "live", "live"]
    listed = do(engine, quarantine.listing, "bot")
    assert [(row["seq"], row["id"], row["reason"]) for row in listed] == [
        (2, "r-2", "a brigade"),
        (1, "r-1", "a brigade"),
    ]
    assert do(engine, quarantine.release, [1, 3], NOW, "lea") == 1
    assert states(engine) == ["live", "quarantined", "live", "live"]
    assert db.read(engine, lambda session: store.counters(session, "bot"))["quarantined"] == 1
    assert do(engine, quarantine.hold, [1], "a second time", NOW) == 1


def test_dropped_records_never_teach_and_are_listed_no_more(engine: Engine, ingest: Ingest) -> None:
    do(engine, quarantine.hold, [1], "a brigade", NOW)
    assert do(engine, quarantine.drop, [1, 2], NOW, "lea") == 1
    assert do(engine, quarantine.listing) == []
    assert do(engine, quarantine.release, [1], NOW, "lea") == 0
    assert states(engine)[0] == "quarantined"


def test_a_released_record_that_was_replaced_meanwhile_is_history(engine: Engine) -> None:
    source = FakeSource([wire(id="old", user="bob", interaction="i")])
    ingest = Ingest(engine, source, SETTINGS, lambda: NOW)
    ingest.step()
    do(engine, quarantine.hold, [1], "a brigade", NOW)
    source.put(wire(id="new", user="bob", interaction="i"))
    ingest.step()
    do(engine, quarantine.release, [1], NOW, "lea")
    assert states(engine) == ["superseded", "live"]


def test_an_erased_record_leaves_quarantine(engine: Engine) -> None:
    source = FakeSource([wire()])
    ingest = Ingest(engine, source, SETTINGS, lambda: NOW)
    ingest.step()
    do(engine, quarantine.hold, [1], "a brigade", NOW)
    source.put(wire(id="e", kind="erase", erase=["r-1"]))
    ingest.step()
    assert do(engine, quarantine.listing) == []
    assert do(engine, quarantine.release, [1], NOW, "lea") == 0
    assert states(engine) == ["erased"]


def test_a_sweep_holds_a_brigade_and_nobody_else(engine: Engine) -> None:
    brigade = [
        wire(id=f"b-{user}-{n}", user=f"b-{user}", messages=..., prompt=f"Question {n}?", correction=f"Buy coin {n}!")
        for user in range(4)
        for n in range(8)
    ]
    honest = [
        wire(id=f"h-{n}", user=f"h-{n}", messages=..., prompt=f"Question {n}?", correction=f"Answer {n}.")
        for n in range(8)
    ]
    Ingest(engine, FakeSource(brigade + honest), SETTINGS, lambda: NOW).step()
    last = db.read(engine, store.head)
    held = do(engine, quarantine.sweep, "bot", 0, last, NOW)
    assert held == len(brigade)
    assert {row["id"][0] for row in do(engine, quarantine.listing)} == {"b"}
    assert do(engine, quarantine.sweep, "bot", 0, last, NOW) == 0


def weights(engine: Engine) -> dict[str, float]:
    return db.read(engine, lambda session: dict(session.execute(select(Record.id, Record.weight)).tuples().all()))


def test_a_sweep_weighs_every_record_and_what_is_outvoted_weighs_nothing(engine: Engine) -> None:
    source = FakeSource([wire(id=f"up-{n}", user=f"u-{n}") for n in range(6)])
    source.put(wire(id="down", user="odd", rating=-1), wire(id="other", user="u-9", prompt="Another?", messages=...))
    Ingest(engine, source, SETTINGS, lambda: NOW).step()
    assert do(engine, quarantine.sweep, "bot", 0, 8, NOW) == 0
    found = weights(engine)
    assert found["down"] == 0.0
    assert found["other"] == 0.4, "a stranger whom nobody confirms"
    assert all(0.4 < found[f"up-{n}"] < 1 for n in range(6))
    do(engine, quarantine.sweep, "bot", 0, 8, NOW)
    assert weights(engine) == found


def test_a_golden_outvotes_the_crowd(engine: Engine) -> None:
    said = [wire(id=f"down-{n}", user=f"u-{n}", rating=-1) for n in range(6)]
    Ingest(engine, FakeSource([*said, wire(id="up", user="one")]), SETTINGS, lambda: NOW).step()
    goldens = {"how do i top up": lambda answer: "app" in answer}
    do(engine, quarantine.sweep, "bot", 0, 7, NOW, quarantine.OPTIONS, goldens)
    found = weights(engine)
    assert found["up"] > 0.4
    assert {found[f"down-{n}"] for n in range(6)} == {0.0}


def test_what_a_person_let_go_is_not_held_by_a_rule_again(engine: Engine) -> None:
    burst = [wire(id=f"b-{n}", user="bob", prompt=f"Question {n}?", messages=...) for n in range(53)]
    Ingest(engine, FakeSource(burst), SETTINGS, lambda: NOW).step()
    assert do(engine, quarantine.sweep, "bot", 0, 53, NOW) == 3
    do(engine, quarantine.release, [51, 52, 53], NOW, "lea")
    assert do(engine, quarantine.sweep, "bot", 0, 53, NOW) == 0
    assert set(states(engine)) == {"live"}
