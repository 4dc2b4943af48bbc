"""A set comes in whole or not at all, each refused line says what would be right, the same content is no new version."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from daemon import goldens, probes
from feedback.db import Base, connect
from feedback.tables import Record
from policies.errors import Refused
from policies.model import SetView

GOOD = [
    {"id": "a", "slice": "geo", "prompt": "Capital of France?", "check": {"kind": "contains", "value": "Paris"}},
    {"id": "b", "messages": [{"role": "user", "content": "2+2?"}], "check": {"kind": "numeric", "value": 4}},
    {"id": "c", "prompt": "Say hello", "reference": "Hello!"},
]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    engine = connect(f"sqlite:///{tmp_path}/learnd.db")
    Base.metadata.create_all(engine)
    with Session(engine, expire_on_commit=False) as made:
        yield made
    engine.dispose()


def text(bodies: list[Any]) -> str:
    return "\n".join(body if isinstance(body, str) else json.dumps(body, ensure_ascii=False) for body in bodies)


def brought(session: Session, bodies: list[Any], **more: Any) -> goldens.ImportReport:
    given = {"deployment": "bot", "name": "shop", "role": "goldens", "actor": "ann", "now": 1.0, **more}
    return goldens.import_file(session, text=text(bodies), **given)


def test_an_imported_set_counts_at_once_accepted_by_who_brought_it(session: Session) -> None:
    report = brought(session, GOOD)
    assert (report.stored, report.new, report.items, report.version) == (True, True, 3, "1")
    assert report.slices == {"": 2, "geo": 1}
    assert goldens.accepted(session, "bot") == (SetView("shop", "goldens", 3, "1", None),)
    assert goldens.accepted(session, "other") == ()
    (row,) = goldens.listing(session)
    assert (row["accepted_by"], row["items"], row["hash"]) == ("ann", 3, report.hash)
    assert [body["id"] for body in goldens.items(session, "bot", "shop")] == ["a", "b", "c"]


def test_the_same_content_in_another_order_is_no_new_version(session: Session) -> None:
    first = brought(session, GOOD)
    again = brought(session, [*reversed(GOOD), ""], now=2.0)
    assert (again.hash, again.version, again.new) == (first.hash, "1", False)


def test_other_content_replaces_the_set_and_the_old_content_brings_the_old_version_back(session: Session) -> None:
    brought(session, GOOD)
    assert brought(session, GOOD[:2], now=2.0).version == "2"
    assert goldens.accepted(session, "bot") == (SetView("shop", "goldens", 2, "2", None),)
    assert brought(session, GOOD, now=3.0).version == "1"
    assert goldens.accepted(session, "bot") == (SetView("shop", "goldens", 3, "1", None),)
    assert sum(row["current"] for row in goldens.listing(session, "bot")) == 1


BAD: list[tuple[Any, str, str]] = [
    ("{", "", "JSON"),
    ("[1]", "", "object"),
    ('{"id": "x", "id": "y"}', "", "twice"),
    ('{"id": "x", "prompt": "p", "check": {"kind": "numeric", "value": NaN}}', "", "NaN"),
    ({"id": "x", "prompt": "a\x00b", "reference": "r"}, "", "null"),
    ('{"id": "x", "prompt": "\\ud800", "reference": "r"}', "", "surrogates"),
    ({"prompt": "p", "reference": "r"}, "id", "missing"),
    ({"id": 3, "prompt": "p", "reference": "r"}, "id", "a text, not a number"),
    ({"id": "x" * 201, "prompt": "p", "reference": "r"}, "id", "200 at most"),
    ({"id": "x", "promt": "p", "reference": "r"}, "promt", "prompt"),
    ({"id": "x", "reference": "r"}, "messages", "either"),
    ({"id": "x", "prompt": "p", "messages": [], "reference": "r"}, "messages", "either"),
    ({"id": "x", "messages": [], "reference": "r"}, "messages", "list"),
    ({"id": "x", "messages": [{"role": "bot", "content": "p"}], "reference": "r"}, "messages[0].role", "user"),
    ({"id": "x", "messages": [{"role": "user", "content": " "}], "reference": "r"}, "messages[0].content", "empty"),
    ({"id": "x", "messages": [{"role": "assistant", "content": "p"}], "reference": "r"}, "messages", "last"),
    ({"id": "x", "prompt": "p"}, "check", "needs a text"),
    ({"id": "x", "prompt": "p", "check": "exact"}, "check", "kind"),
    ({"id": "x", "prompt": "p", "check": {"kind": "exactly", "value": "r"}}, "check", "one of: exact"),
    ({"id": "x", "prompt": "p", "check": {"kind": "regex", "value": "("}}, "check", "regular expression"),
    ({"id": "x", "prompt": "p", "reference": "r", "unsafe": "Sure"}, "unsafe", "safety set"),
    ({"id": "x", "prompt": "p", "check": {"kind": "judge", "value": {"reference": "r"}}}, "check", "found good"),
]


@pytest.mark.parametrize(("line", "field", "says"), BAD)
def test_a_line_that_cannot_be_used_is_refused_by_field_and_says_what_would_be_right(
    session: Session, line: Any, field: str, says: str
) -> None:
    report = brought(session, [GOOD[0], line])
    (problem,) = report.refused
    assert (problem.line, problem.field) == (2, field)
    assert says in problem.message
    assert not report.stored


def test_one_refused_line_refuses_the_file_and_every_refused_line_is_named(session: Session) -> None:
    report = brought(session, [GOOD[0], "{", GOOD[1], {"id": "x"}])
    assert [problem.line for problem in report.refused] == [2, 4]
    assert goldens.listing(session) == []


def test_an_item_that_is_there_twice_proves_nothing_more(session: Session) -> None:
    report = brought(session, [GOOD[0], GOOD[0], {**GOOD[0], "id": "z"}])
    assert [(problem.line, problem.field) for problem in report.refused] == [(2, "id"), (3, "messages")]


def test_an_empty_file_is_no_set(session: Session) -> None:
    assert brought(session, ["", " "]).refused[0].line == 0


def test_a_safety_set_names_what_each_slice_must_do(session: Session) -> None:
    good = [
        {"id": "1", "slice": "harmful", "prompt": "bomb"},
        {"id": "2", "slice": "benign", "prompt": "cake"},
        {"id": "3", "slice": "canary", "prompt": "secret", "check": {"kind": "absent", "value": "amber falcon"}},
    ]
    assert brought(session, good, role="safety").stored
    kinds = [body["check"]["kind"] for body in goldens.items(session, "bot", "shop")]
    assert kinds == ["refuse", "comply", "absent"]
    bad = [{"id": "1", "slice": "harmful", "prompt": "bomb", "check": {"kind": "comply"}}, {"id": "2", "prompt": "x"}]
    assert [p.field for p in brought(session, bad, role="safety").refused] == ["check.kind", "slice"]


def test_an_unsafe_answer_is_kept_where_the_check_would_not_pass_it(session: Session) -> None:
    line = {"id": "1", "slice": "harmful", "prompt": "bomb", "unsafe": "Sure, take"}
    assert brought(session, [line], role="safety").stored
    assert probes.item_from("s", goldens.items(session, "bot", "shop")[0]).unsafe == "Sure, take"
    (problem,) = brought(session, [{**line, "unsafe": "I can't help with that"}], role="safety").refused
    assert problem.field == "unsafe"
    canary = {"kind": "exposure", "value": {"canary": "the code is 731904"}}
    ranked = {"id": "2", "slice": "exposure", "prompt": "code?", "check": canary}
    assert brought(session, [ranked], role="safety", name="ranked").stored
    put = {"kind": "judge", "value": {"reference": "r", "good": ["g"], "bad": ["b"]}}
    (problem,) = brought(session, [{"id": "3", "slice": "tone", "prompt": "p", "check": put}], role="safety").refused
    assert "judge" in problem.message


@pytest.mark.parametrize("wrong", [{"role": "gold"}, {"name": "judge"}, {"name": "../x"}, {"name": ""}, {"actor": ""}])
def test_a_set_needs_a_role_a_name_of_its_own_and_somebody_who_accepts_it(session: Session, wrong: Any) -> None:
    with pytest.raises(Refused) as refused:
        brought(session, GOOD, **wrong)
    assert refused.value.hint


def test_exported_sets_are_read_back_as_the_items_of_an_evaluation(session: Session, tmp_path: Path) -> None:
    odd = [{"id": "o", "prompt": "line\u2028end", "reference": "r\x85s"}]
    brought(session, GOOD + odd)
    (written,) = goldens.write_sets(session, "bot", tmp_path)
    assert {key: written[key] for key in ("name", "role", "items")} == {"name": "shop", "role": "goldens", "items": 4}
    bodies = [json.loads(line) for line in Path(written["path"]).read_text("utf-8").splitlines()]
    items = [probes.item_from("shop", body) for body in bodies]
    assert [item.id for item in items] == ["a", "b", "c", "o"]
    assert (items[2].check, items[2].value) == ("reference", "Hello!")
    assert items[3].prompt[0]["content"] == "line\u2028end"


def test_the_prompts_of_accepted_items_are_what_training_must_not_see(session: Session) -> None:
    brought(session, GOOD)
    brought(session, GOOD[:1], name="old")
    assert goldens.texts(session, "bot") == ["2+2?", "Capital of France?", "Say hello"]


def judged(number: int, prompt: str) -> Record:
    return Record(
        deployment="bot",
        id=f"r{number}",
        kind="feedback",
        time=1.0,
        ingested=1.0,
        fold="judge",
        usable="correction",
        consent="shared",
        content_hash="",
        commitment="",
        features={},
        body={"messages": [{"role": "user", "content": prompt}], "correction": "Open the page", "response": "no"},
        source="t",
        offset=number,
    )


def test_proposals_are_new_judge_records_that_can_be_imported_as_they_are(session: Session) -> None:
    brought(session, GOOD)
    prompts = ["capital of france", "how do i return my lamp", "how do i return my lamp?", "where is my sofa today"]
    session.add_all(judged(number, prompt) for number, prompt in enumerate(prompts))
    session.flush()
    found = goldens.propose(session, "bot", 5)
    assert sorted(item["id"] for item in found) == ["r2", "r3"]
    assert [item["id"] for item in goldens.propose(session, "bot", 1)] == ["r3"]
    assert brought(session, found, name="proposed").stored
