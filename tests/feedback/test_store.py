"""What the store answers: counts by signal, fold and consent; votes; judge items; on both databases."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from daemon.testing import FakeSource
from feedback import db, quarantine, store
from feedback.ingest import Ingest
from policies.model import SignalCounts, Votes
from tests.feedback.support import NOW, SETTINGS, wire

Put = Callable[..., None]


@pytest.fixture
def put(engine: Engine) -> Put:
    """Store records, each with an id of its own where none is given."""
    source, numbers = FakeSource(), iter(range(10_000))
    ingest = Ingest(engine, source, SETTINGS, lambda: NOW)

    def store_all(*changes: dict[str, Any]) -> None:
        source.put(*(wire(**({"id": f"n-{next(numbers)}"} | each)) for each in changes))
        assert ingest.step().stored == len(changes)

    return store_all


def ask(engine: Engine, question: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return db.read(engine, lambda session: question(session, *arguments, **named))


def fold_prompts(fold: str, n: int) -> list[str]:
    """Questions that fall into a fold."""
    from feedback.records import parse

    found = []
    for number in range(10 * n + 50):
        record = parse(wire(messages=..., prompt=f"Question {number}?"), (), SETTINGS, NOW)
        if getattr(record, "fold", "") == fold:
            found.append(f"Question {number}?")
    return found[:n]


def test_an_empty_store_has_nothing(engine: Engine) -> None:
    assert ask(engine, store.head) == 0
    assert ask(engine, store.signal_counts, "bot", "", 0, 10) == SignalCounts()
    assert ask(engine, store.votes, "bot", "v") == Votes("v", 0, 0)
    assert ask(engine, store.counters, "bot") == dict.fromkeys(
        ("stored", "duplicates", "dead_letters", "conflicts", "erased", "quarantined"), 0
    )
    assert ask(engine, store.body, 1) == {}


def test_signals_are_counted_by_what_they_teach_in_their_fold(engine: Engine, put: Put) -> None:
    train, judge = fold_prompts("train", 1)[0], fold_prompts("judge", 1)[0]
    for prompt in (train, judge):
        base = {"messages": ..., "prompt": prompt}
        put(
            base | {"rating": 1},
            base | {"rating": -1},
            base | {"rating": {"value": 0, "min": -1, "max": 1}},
            base | {"rating": ..., "correction": "Better."},
            base | {"rating": ..., "preferred": "a", "rejected": "b"},
            base | {"kind": "exposure", "rating": ...},
        )
    assert ask(engine, store.head) == 12
    assert ask(engine, store.signal_counts, "bot", "", 0, 12) == SignalCounts(1, 1, 1, 1, 2)
    assert ask(engine, store.signal_counts, "bot", "", 6, 12) == SignalCounts(judge_references=2)
    assert ask(engine, store.signal_counts, "strict", "", 0, 12) == SignalCounts()
    assert ask(engine, store.judge_total, "bot", "") == 2


def test_a_slot_counts_only_what_it_has_consent_for(engine: Engine, put: Put) -> None:
    prompt = {"messages": ..., "prompt": fold_prompts("train", 1)[0]}
    for consent in ("none", "tenant", "shared"):
        for tenant in ("", "acme"):
            put(prompt | {"consent": consent} | ({"tenant": tenant} if tenant else {}))
    assert ask(engine, store.signal_counts, "bot", "", 0, 6).positives == 3
    assert ask(engine, store.signal_counts, "bot", "acme", 0, 6).positives == 2
    assert ask(engine, store.signal_counts, "bot", "other", 0, 6).positives == 0


def test_judge_items_are_the_newest_with_their_references(engine: Engine, put: Put) -> None:
    prompts = fold_prompts("judge", 3)
    put(
        {"id": "a", "messages": ..., "prompt": prompts[0], "rating": ..., "correction": "Right."},
        {"id": "b", "messages": ..., "prompt": prompts[1], "rating": ..., "preferred": "p", "rejected": "r"},
        {"id": "c", "messages": ..., "prompt": prompts[2], "correction": "C.", "features": {"topic": "cards"}},
        {"id": "d", "messages": ..., "prompt": prompts[2]},
    )
    items = ask(engine, store.judge_items, "bot", "", 0, 4, 2)
    assert [item["id"] for item in items] == ["b", "c"]
    assert items[0]["messages"] == [{"role": "user", "content": prompts[1]}]
    assert (items[0]["reference"], items[0]["preferred"], items[0]["rejected"]) == ("p", "p", "r")
    assert (items[1]["reference"], items[1]["preferred"], items[1]["slice"]) == ("C.", None, "cards")
    assert len(ask(engine, store.judge_items, "bot", "", 0, 4, 10)) == 3
    assert ask(engine, store.judge_items, "bot", "", 3, 4, 10) == []


def test_each_user_has_one_vote_and_the_latest_counts(engine: Engine, put: Put) -> None:
    def rated(rating: Any, user: str = "", version: str = "v", **more: Any) -> dict[str, Any]:
        return {"rating": rating, "model_version": version} | ({"user": user} if user else {}) | more

    put(rated(1, "ann"), rated(-1, "ann"), rated(1, "bob"), rated(1, "bob"))
    put(rated(1), rated(-1), rated({"value": 0, "min": -1, "max": 1}, "eve"), rated(1, "cat", "w"))
    assert ask(engine, store.votes, "bot", "v") == Votes("v", n=4, good=2)
    assert ask(engine, store.votes, "bot", "v", upto_seq=1) == Votes("v", n=1, good=1)
    assert ask(engine, store.votes, "bot", "v", after_seq=2, upto_seq=4) == Votes("v", n=1, good=1)
    assert ask(engine, store.votes, "bot", "w") == Votes("w", n=1, good=1)
    assert ask(engine, store.votes, "bot", "") == Votes("", n=0, good=0)


def test_a_rating_stays_a_vote_when_its_user_corrects_the_answer(engine: Engine, put: Put) -> None:
    shared = {"user": "ann", "interaction": "i", "model_version": "v"}
    put(shared | {"rating": -1}, shared | {"rating": ..., "correction": "Better."})
    assert ask(engine, store.votes, "bot", "v") == Votes("v", n=1, good=0)
    counts = ask(engine, store.signal_counts, "bot", "", 0, 2)
    assert (counts.negatives, counts.corrections + counts.judge_references) == (0, 1)


def test_quarantined_records_neither_teach_nor_vote(engine: Engine, put: Put) -> None:
    put({"model_version": "v", "messages": ..., "prompt": fold_prompts("train", 1)[0]})
    db.transact(engine, lambda session: quarantine.hold(session, [1], "brigade", NOW))
    assert ask(engine, store.votes, "bot", "v").n == 0
    assert ask(engine, store.signal_counts, "bot", "", 0, 1).total == 0
    assert ask(engine, store.counters, "bot")["quarantined"] == 1


def test_dead_letters_are_listed_newest_first(engine: Engine) -> None:
    source = FakeSource([b"{", wire(rating=9), wire(deployment="strict", rating=9)])
    Ingest(engine, source, SETTINGS, lambda: NOW).step()
    listed = ask(engine, store.dead_letters, 10)
    assert [letter["offset"] for letter in listed] == [2, 1, 0]
    assert {"reason", "field", "source", "offset", "at", "message", "body"} <= listed[0].keys()
    assert [letter["offset"] for letter in ask(engine, store.dead_letters, 10, "bot")] == [1]
    assert len(ask(engine, store.dead_letters, 1)) == 1
