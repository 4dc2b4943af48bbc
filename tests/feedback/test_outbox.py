"""The outbox: every dead letter is published, none is marked before it is safe, and its origin travels with it."""

from collections.abc import Sequence

import pytest
from sqlalchemy import Engine, select

from daemon.testing import FakeSource
from feedback import db
from feedback.ingest import Ingest
from feedback.outbox import Header, Outbox
from feedback.tables import DeadLetter
from policies.errors import Transient
from tests.feedback.support import NOW, SETTINGS, wire


class Post:
    """A publisher that keeps what it is given, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.letters: list[tuple[str, bytes, list[Header]]] = []

    def send(self, letters: Sequence[tuple[str, bytes, list[Header]]]) -> None:
        if self.away:
            raise Transient("the broker is away")
        self.letters += letters

    def close(self) -> None:
        self.away = True


def published(engine: Engine) -> list[float | None]:
    return db.read(engine, lambda session: list(session.scalars(select(DeadLetter.published).order_by(DeadLetter.id))))


def test_letters_go_out_once_with_their_origin_and_reason(engine: Engine) -> None:
    Ingest(engine, FakeSource([wire(), b"{", wire(rating=9)]), SETTINGS, lambda: NOW).step()
    post = Post()
    outbox = Outbox(engine, post, ["feedback"], lambda: NOW)
    assert [outbox.step(), outbox.step()] == [2, 0]
    topic, body, headers = post.letters[1]
    told = {name: value.decode() for name, value in headers}
    assert topic == "feedback.dlq"
    assert b'"rating": 9' in body
    assert (told["topic"], told["partition"], told["offset"]) == ("feedback", "0", "2")
    assert (told["reason"], told["field"], told["deployment"]) == ("range", "rating", "bot")
    assert published(engine) == [NOW, NOW]


def test_letters_wait_while_the_broker_is_away(engine: Engine) -> None:
    Ingest(engine, FakeSource([b"{"]), SETTINGS, lambda: NOW).step()
    post = Post()
    post.away = True
    outbox = Outbox(engine, post, ["feedback"], lambda: NOW)
    with pytest.raises(Transient):
        outbox.step()
    assert published(engine) == [None]
    post.away = False
    assert outbox.step() == 1


def test_letters_of_other_sources_stay(engine: Engine) -> None:
    Ingest(engine, FakeSource([b"{"], source="files/a.jsonl"), SETTINGS, lambda: NOW).step()
    assert Outbox(engine, Post(), ["feedback"], lambda: NOW).step() == 0
    assert published(engine) == [None]
