"""What may teach, what is drawn, what a line says, and that building twice is building once."""

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from feedback import dataset, near
from feedback.db import connect
from feedback.tables import DatasetRow, Record
from policies.actions import Mixture
from policies.errors import Corrupt, Refused
from tests import fresh

NOW = 1_800_000_000.0
DAY = 86400.0
ALL = Mixture(new=1000, replay=0, anchor=0, seed=1)


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    engine = connect(database)
    fresh.migrate(engine)
    with Session(engine) as opened:
        yield opened
    engine.dispose()


WORDS = ("invoice", "parcel", "password", "refund", "cancel", "address", "voucher", "delivery", "receipt", "warranty",
         "login", "battery")  # fmt: skip


def put(session: Session, number: int, **changed: Any) -> Record:
    question = changed.pop("prompt", f"{WORDS[number % 12]} {number * 7919} {WORDS[number % 7]}?")
    body = {"messages": [{"role": "user", "content": question}], "response": "an answer", "correction": "a better one"}
    values: dict[str, Any] = {
        "deployment": "bot", "id": str(number), "kind": "feedback", "time": NOW - number * DAY, "ingested": NOW,
        "fold": "train", "usable": "correction", "consent": "shared", "content_hash": "c", "commitment": "m",
        "prompt_hash": sha256(question.encode()).hexdigest(), "features": {}, "body": body | changed.pop("body", {}),
        "source": "kafka:feedback", "partition": number % 2, "offset": number, "seq": number,
    }  # fmt: skip
    record = Record(**values | changed)
    session.add(record)
    session.flush()
    return record


def build(session: Session, folder: Path, **changed: Any) -> dataset.Dataset:
    values: dict[str, Any] = {
        "deployment": "bot", "tenant": "", "window": (0, 10_000), "mixture": ALL, "anchors": [], "folder": folder,
        "now": NOW, "exclude_near": [],
    }  # fmt: skip
    return dataset.build(session, **values | changed)


def lines(built: dataset.Dataset) -> list[dict[str, Any]]:
    return [json.loads(line) for line in built.path.read_text().splitlines()]


def test_a_correction_teaches_the_edit_and_the_edit_over_the_original(session: Session, tmp_path: Path) -> None:
    put(session, 1, prompt="where?")
    sft, pair = lines(build(session, tmp_path))
    asked = [{"role": "user", "content": "where?"}]
    assert (sft["objective"], sft["messages"], sft["completion"], sft["rejected"]) == (
        "sft",
        asked,
        "a better one",
        None,
    )
    assert (pair["objective"], pair["completion"], pair["rejected"]) == ("pair", "a better one", "an answer")


def test_a_correction_without_the_original_teaches_the_edit_alone(session: Session, tmp_path: Path) -> None:
    put(session, 1, body={"response": None})
    assert [line["objective"] for line in lines(build(session, tmp_path))] == ["sft"]


def test_pairs_and_ratings_keep_their_sides(session: Session, tmp_path: Path) -> None:
    put(session, 1, usable="pair", body={"preferred": "yes", "rejected": "no", "correction": None})
    put(session, 2, usable="positive", rating=1.0)
    put(session, 3, usable="negative", rating=-1.0)
    pair, good, bad = lines(build(session, tmp_path))
    assert (pair["objective"], pair["completion"], pair["rejected"], pair["label"]) == ("pair", "yes", "no", None)
    assert (good["objective"], good["completion"], good["label"]) == ("kto", "an answer", True)
    assert (bad["objective"], bad["label"]) == ("kto", False)


def test_the_prompt_ends_before_the_answer(session: Session, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a", "name": "x"}, {"role": "assistant", "content": "b"}]
    put(session, 1, body={"messages": chat})
    assert lines(build(session, tmp_path))[0]["messages"] == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"fold": "judge"}, "judge_fold"),
        ({"state": "quarantined"}, "quarantined"),
        ({"state": "superseded"}, "superseded"),
        ({"state": "erased", "body": {"messages": []}}, "erased"),
        ({"consent": "none", "usable": ""}, "unconsented"),
        ({"consent": "tenant", "tenant": "acme"}, "unconsented"),
        ({"usable": ""}, "neutral"),
        ({"body": {"correction": ""}}, "no_content"),
        ({"body": {"messages": []}}, "no_content"),
        ({"prompt": "How do I reset my password?"}, "near_duplicate"),
        ({"prompt": "how do i reset my pasword"}, "near_duplicate"),
    ],
)
def test_what_may_not_teach_is_left_out_and_counted(
    session: Session, tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    put(session, 1)
    put(session, 2, **changed)
    built = build(session, tmp_path, exclude_near=["How do I reset my password?"])
    assert built.seqs == (1,)
    assert built.card["thrown_out"] == {reason: 1}


def test_ratings_of_one_answer_that_contradict_each_other_are_left_out_as_far_as_they_weigh(
    session: Session, tmp_path: Path
) -> None:
    for number, usable in enumerate(["positive", "positive", "negative", "positive"], 1):
        put(session, number, prompt="where?", usable=usable, weight=0.1 if number == 2 else 1.0)
    put(session, 5, prompt="where?", usable="negative", body={"response": "another answer"})
    put(session, 6, prompt="when?", usable="negative")
    built = build(session, tmp_path)
    assert built.seqs == (1, 4, 5, 6)
    assert built.card["thrown_out"] == {"contradicting": 2}
    assert built.card["signals"] == {"negative": 2, "positive": 2}


def test_many_who_are_hardly_believed_take_nothing_away_from_one_who_is(session: Session, tmp_path: Path) -> None:
    put(session, 1, prompt="where?", usable="positive")
    for number in range(2, 7):
        put(session, number, prompt="where?", usable="negative", weight=0.1)
    built = build(session, tmp_path)
    assert (built.seqs, built.card["thrown_out"]) == ((1,), {"contradicting": 5})


def test_old_ratings_contradict_each_other_too_and_a_set_of_nothing_else_is_refused(
    session: Session, tmp_path: Path
) -> None:
    for number, usable in enumerate(["positive", "negative", "positive", "negative"], 1):
        put(session, number, prompt="where?" if number < 3 else "when?", usable=usable)
    put(session, 5)
    built = build(session, tmp_path, window=(4, 5), mixture=Mixture(9, 9, 0, seed=1))
    assert (built.seqs, built.card["thrown_out"]) == ((5,), {"contradicting": 4})
    with pytest.raises(Refused, match="4 contradicting"):
        build(session, tmp_path, window=(0, 4))


@pytest.mark.parametrize("kind", ["exposure", "feedback"])
def test_another_deployments_records_and_exposures_are_not_even_looked_at(
    session: Session, tmp_path: Path, kind: str
) -> None:
    put(session, 1)
    put(session, 2, kind=kind, deployment="bot" if kind == "exposure" else "other")
    built = build(session, tmp_path)
    assert built.seqs == (1,)
    assert built.card["thrown_out"] == {}


def test_a_tenant_learns_from_its_own_and_the_base_from_what_is_shared(session: Session, tmp_path: Path) -> None:
    put(session, 1, tenant="acme", consent="tenant")
    put(session, 2, tenant="acme", consent="shared")
    put(session, 3, tenant="other", consent="tenant")
    put(session, 4, consent="tenant")
    assert build(session, tmp_path).seqs == (2, 4)
    assert build(session, tmp_path, tenant="acme").seqs == (1, 2)


def test_nothing_left_to_learn_from_is_refused_with_what_became_of_it(session: Session, tmp_path: Path) -> None:
    put(session, 1, state="quarantined")
    with pytest.raises(Refused, match="1 quarantined"):
        build(session, tmp_path)


def test_the_same_inputs_give_the_same_hash_on_another_day_and_one_row(session: Session, tmp_path: Path) -> None:
    for number in range(1, 40):
        put(session, number)
    mixture = Mixture(new=10, replay=5, anchor=0, seed=7)
    first = build(session, tmp_path, window=(20, 39), mixture=mixture)
    again = build(session, tmp_path, window=(20, 39), mixture=mixture, now=NOW + 9 * DAY)
    assert again == first
    assert first.hash == sha256(first.path.read_bytes()).hexdigest() == first.path.parent.name
    assert session.query(DatasetRow).one().seqs == list(first.seqs)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [first.hash]
    assert build(session, tmp_path, window=(20, 39), mixture=replace(mixture, seed=8)).hash != first.hash


def test_a_file_that_was_changed_on_disk_is_not_trained_on(session: Session, tmp_path: Path) -> None:
    put(session, 1)
    build(session, tmp_path).path.write_text("{}\n")
    with pytest.raises(Corrupt, match="changed after"):
        build(session, tmp_path)


def test_quotas_are_kept_and_what_is_over_them_is_counted(session: Session, tmp_path: Path) -> None:
    for number in range(1, 61):
        put(session, number)
    anchors = [{"id": str(n), "messages": [{"role": "user", "content": f"capital {n}"}], "reference": "r",
                "licence": "CC0-1.0"} for n in range(9)]  # fmt: skip
    built = build(session, tmp_path, window=(30, 60), mixture=Mixture(12, 10, 4, seed=3), anchors=anchors)
    assert built.card["records"] == {"new": 12, "replay": 10, "anchor": 4}
    assert built.card["thrown_out"] == {"over_quota": 18}
    assert built.card["licences"] == {"CC0-1.0": 4}
    assert built.card["objectives"] == {"pair": 22, "sft": 26}
    assert sum(seq <= 30 for seq in built.seqs) == 10
    assert {line["origin"] for line in lines(built)} == {"new", "replay", "anchor"}


def test_replay_is_drawn_from_all_of_history_alike(session: Session, tmp_path: Path) -> None:
    for number in [*range(1, 4), *range(400, 600), *range(998, 1002)]:  # a busy time between quiet ones
        put(session, number)
    built = build(session, tmp_path, window=(1000, 1001), mixture=Mixture(10, 9, 0, seed=3))
    replayed = [seq for seq in built.seqs if seq <= 1000]
    assert len(replayed) == 9
    assert sum(seq < 4 for seq in replayed) >= 2
    assert sum(seq >= 998 for seq in replayed) >= 2


def test_a_rare_kind_of_question_is_replayed_as_often_as_a_common_one(session: Session, tmp_path: Path) -> None:
    for number in range(1, 101):
        rare = number % 10 == 0
        put(session, number, prompt=f"{'voucher' if rare else 'invoice'} {number * 7919} {WORDS[number % 7][:3]}?")
    put(session, 101)
    built = build(session, tmp_path, window=(100, 101), mixture=Mixture(10, 30, 0, seed=3))
    replayed = [seq for seq in built.seqs if seq <= 100]
    assert len(replayed) == 30
    assert sum(seq % 10 == 0 for seq in replayed) >= 7  # one of ten would be 3


def test_an_old_answer_to_a_question_answered_anew_is_not_replayed(session: Session, tmp_path: Path) -> None:
    put(session, 1, prompt="what are your hours?")
    put(session, 2, prompt="something else entirely")
    put(session, 3, prompt="what are your hours?")
    assert build(session, tmp_path, window=(2, 3), mixture=Mixture(9, 9, 0, seed=1)).seqs == (2, 3)


def test_a_weight_is_the_raters_and_halves_with_age(session: Session, tmp_path: Path) -> None:
    put(session, 1, time=NOW)
    put(session, 2, time=NOW - 30 * DAY, weight=0.5)
    weights = {line["seq"]: line["weight"] for line in lines(build(session, tmp_path, half_life_days=30.0))}
    assert weights == {1: 1.0, 2: 0.25}


def test_the_card_says_where_everything_came_from_without_a_word_of_a_user(session: Session, tmp_path: Path) -> None:
    for number in range(1, 7):
        put(session, number, prompt=f"secret {number * 7919}", consent="shared" if number % 3 else "tenant")
    card = build(session, tmp_path, window=(2, 6), mixture=Mixture(9, 9, 0, seed=1)).card
    assert card["signals"] == {"correction": 6}
    assert card["consent"] == {"shared": 4, "tenant": 2}
    where = {"source": "kafka:feedback", "partition": 0, "first_offset": 4, "last_offset": 6, "records": 2}
    assert {"origin": "new", **where} in card["sources"]
    assert len(card["sources"]) == 4
    stored = json.loads((tmp_path / card["hash"] / "card.json").read_text())
    assert stored == card
    assert "secret" not in json.dumps(card)


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("how do i reset my password", True),
        ("  HOW do I reset — my password?! ", True),
        ("how do I reset my passwords", True),
        ("how do I reset my router", False),
        ("", False),
        ("?", False),
    ],
)
def test_nearly_the_same_prompt_is_told_from_another_one(text: str, alike: bool) -> None:
    assert (text in near.Near(["How do I reset my password?", "", "!?"])) is alike


def test_no_near_duplicate_is_missed_and_none_invented() -> None:
    texts = [f"{WORDS[a]} and {WORDS[b]} {a * b}" for a in range(12) for b in range(12)]
    held, asked = texts[::2], texts[1::2]
    index = near.Near(held, threshold=0.6)
    grams = {text: near.shingles(near.normalise(text)) for text in texts}

    def alike(one: str, other: str) -> bool:
        return len(grams[one] & grams[other]) >= 0.6 * len(grams[one] | grams[other])

    expected = [any(alike(text, other) for other in held) for text in asked]
    assert 0 < sum(expected) < len(expected)
    assert index.hits(asked) == expected


def test_a_record_that_is_not_believed_is_left_out_and_counted(session: Session, tmp_path: Path) -> None:
    put(session, 1, weight=0.0)
    put(session, 2, weight=0.5, time=NOW)
    built = build(session, tmp_path)
    assert built.seqs == (2,)
    assert built.card["thrown_out"] == {"unbelieved": 1}
    assert {line["weight"] for line in lines(built)} == {0.5}
