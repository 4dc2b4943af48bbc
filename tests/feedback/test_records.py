"""Record v1: what is taken, what is refused and how it is said, and that nothing of a person gets through unmasked."""

import base64
import contextlib
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.fields import moment
from feedback.keys import user_hash
from feedback.records import Erase, Exposure, Feedback, Rejected, commit, normalise, parse
from tests.feedback.support import NOW, SETTINGS, valid, wire


def read(raw: bytes, *headers: tuple[str, bytes]) -> Any:
    return parse(raw, headers, SETTINGS, NOW)


def refused(raw: bytes, *headers: tuple[str, bytes]) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read(raw, *headers)
    return caught.value


def test_a_valid_record_is_read_as_it_was_sent() -> None:
    record = read(
        wire(tenant="t", interaction="i", comment="good", model_version="bot@1", features={"ms": 12.5, "a": "b"})
    )
    assert isinstance(record, Feedback)
    assert (record.id, record.deployment, record.tenant, record.interaction) == ("r-1", "bot", "t", "i")
    assert record.body["messages"] == [{"role": "user", "content": "How do I top up?"}]
    assert record.body["response"] == "In the app."
    assert record.features == {"ms": 12.5, "a": "b"}
    assert record.usable == "positive"
    assert record.time == 1794885120.0


def test_a_prompt_stands_for_one_message() -> None:
    assert read(wire(messages=..., prompt="Hi?")).body["messages"] == [{"role": "user", "content": "Hi?"}]


def test_unknown_fields_are_kept_under_extra() -> None:
    record = read(wire(channel="web", messages=[{"role": "user", "content": "x", "name": "n"}]))
    assert record.body["extra"] == {"channel": "web", "messages[0]": {"name": "n"}}


def test_an_answer_that_ends_the_conversation_is_the_response() -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    record = read(wire(messages=talk, response=...))
    assert record.body["messages"] == talk[:1]
    assert record.body["response"] == "Hello"


def test_an_exposure_needs_no_messages_and_takes_no_signal() -> None:
    record = read(wire(kind="exposure", messages=..., response=..., rating=..., sampling=0.1, features={"ms": 1}))
    assert isinstance(record, Exposure)
    assert (record.sampling, record.usable) == (0.1, "")
    assert refused(wire(kind="exposure")).field == "rating"


@pytest.mark.parametrize(
    ("rating", "normal"),
    [
        (1, 1.0),
        (-1, -1.0),
        (1.0, 1.0),
        ({"value": 5, "min": 1, "max": 5}, 1.0),
        ({"value": 1, "min": 1, "max": 5}, -1.0),
        ({"value": 3, "min": 1, "max": 5}, 0.0),
        ({"value": 0.25, "min": 0, "max": 1}, -0.5),
    ],
)
def test_ratings_are_normalised(rating: Any, normal: float) -> None:
    assert read(wire(rating=rating)).rating == normal


@pytest.mark.parametrize(
    ("changes", "usable"),
    [
        ({"rating": 1}, "positive"),
        ({"rating": -1}, "negative"),
        ({"rating": {"value": 0.55, "min": 0, "max": 1}}, ""),
        ({"rating": 1, "response": ...}, ""),
        ({"rating": 1, "correction": "Better."}, "correction"),
        ({"rating": ..., "correction": "In the app."}, "positive"),
        ({"rating": ..., "preferred": "a", "rejected": "b"}, "pair"),
        ({"rating": 1, "consent": "none", "correction": "Better."}, ""),
        ({"rating": 1, "deployment": "strict"}, ""),
        ({"rating": 1, "deployment": "strict", "consent": "tenant"}, "positive"),
    ],
)
def test_what_a_record_teaches_follows_its_signal_and_consent(changes: dict[str, Any], usable: str) -> None:
    assert read(wire(**changes)).usable == usable


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"id": ...}, "missing", "id"),
        ({"id": ""}, "range", "id"),
        ({"id": "x" * 129}, "range", "id"),
        ({"id": 7}, "type", "id"),
        ({"kind": "other"}, "range", "kind"),
        ({"kind": None}, "type", "kind"),
        ({"time": ...}, "missing", "time"),
        ({"time": "yesterday"}, "type", "time"),
        ({"time": "2026-11-17"}, "type", "time"),
        ({"time": "2026-11-17T03:12:00"}, "type", "time"),
        ({"time": "2026-13-17T03:12:00Z"}, "range", "time"),
        ({"time": "0000-01-01T00:00:00Z"}, "range", "time"),
        ({"time": "2026-11-17T03:12:00+99:00"}, "range", "time"),
        ({"time": "1969-12-31T00:00:00Z"}, "range", "time"),
        ({"time": "2099-01-01T00:00:00Z"}, "future", "time"),
        ({"time": 1700000000}, "type", "time"),
        ({"deployment": ...}, "missing", "deployment"),
        ({"deployment": "nobody"}, "unknown_deployment", "deployment"),
        ({"tenant": 1}, "type", "tenant"),
        ({"interaction": []}, "type", "interaction"),
        ({"comment": {}}, "type", "comment"),
        ({"model_version": 2}, "type", "model_version"),
        ({"messages": ...}, "missing", "messages"),
        ({"messages": []}, "range", "messages"),
        ({"messages": "hi"}, "type", "messages"),
        ({"messages": ["hi"]}, "type", "messages[0]"),
        ({"messages": [{"role": "user"}]}, "missing", "messages[0].content"),
        ({"messages": [{"role": "god", "content": ""}]}, "range", "messages[0].role"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "type", "messages[0].content"),
        ({"prompt": "hi"}, "ambiguous", "prompt"),
        ({"messages": ..., "prompt": 5}, "type", "prompt"),
        ({"response": None}, "type", "response"),
        ({"rating": ...}, "missing", "rating"),
        ({"rating": True}, "type", "rating"),
        ({"rating": "1"}, "type", "rating"),
        ({"rating": 0}, "range", "rating"),
        ({"rating": 5}, "range", "rating"),
        ({"rating": {"value": 1}}, "missing", "rating.min"),
        ({"rating": {"value": 9, "min": 1, "max": 5}}, "range", "rating.value"),
        ({"rating": {"value": 1, "min": 5, "max": 5}}, "range", "rating.max"),
        ({"rating": {"value": 0, "min": -1.7e308, "max": 1.7e308}}, "range", "rating.max"),
        ({"rating": {"value": 1, "min": 1, "max": "5"}}, "type", "rating.max"),
        ({"correction": ""}, "range", "correction"),
        ({"preferred": "a"}, "missing", "rejected"),
        ({"rejected": "a"}, "missing", "preferred"),
        ({"preferred": "a", "rejected": "a"}, "range", "rejected"),
        ({"user": ""}, "range", "user"),
        ({"user": 5}, "type", "user"),
        ({"features": []}, "type", "features"),
        ({"features": {"a": {}}}, "type", "features.a"),
        ({"features": {"a": None}}, "type", "features.a"),
        ({"features": {"a": True}}, "type", "features.a"),
        ({"features": {"a": "x" * 257}}, "range", "features.a"),
        ({"features": {"card": 4111111111111111}}, "range", "features.card"),
        ({"sampling": 0}, "range", "sampling"),
        ({"sampling": 1.5}, "range", "sampling"),
        ({"sampling": "1"}, "type", "sampling"),
        ({"consent": "yes"}, "range", "consent"),
        ({"erase": {"ids": ["a"]}}, "ambiguous", "erase"),
        ({"kind": "erase"}, "missing", "erase"),
        ({"kind": "erase", "erase": {}}, "type", "erase"),
        ({"kind": "erase", "erase": {"ids": []}}, "range", "erase.ids"),
        ({"kind": "erase", "erase": {"ids": [1]}}, "type", "erase.ids"),
        ({"kind": "erase", "erase": {"user": ""}}, "type", "erase.user"),
    ],
)
def test_a_refusal_names_the_field_and_says_what_would_be_right(changes: Any, reason: str, field: str) -> None:
    error = refused(wire(**changes))
    assert (error.reason, error.field) == (reason, field)
    assert len(str(error)) > 10
    assert error.hint
    assert error.redacted


@pytest.mark.parametrize(
    ("raw", "reason", "field"),
    [
        (b"", "invalid_json", ""),
        (b"{", "invalid_json", ""),
        (b"[]", "type", ""),
        (b"null", "type", ""),
        (b"\xef\xbb\xbf{}", "invalid_json", ""),
        (b'{"id": NaN}', "not_a_number", "id"),
        (b'{"rating": -Infinity}', "not_a_number", "rating"),
        (b'{"features": {"x": 1e999}}', "range", "features.x"),
        (b'{"features": {"x": 99999999999999999999}}', "range", "features.x"),
        (b'{"features": {"x": ' + b"9" * 5000 + b"}}", "range", "features.x"),
        (b'{"id": "a", "id": "b"}', "duplicate_key", "id"),
        (b'{"messages": [{"role": "user", "role": "system"}]}', "duplicate_key", "messages[0].role"),
        (b'{"comment": "\\u0000"}', "control_character", "comment"),
        (b'{"comment": "\\u001b[2J"}', "control_character", "comment"),
        (b'{"comment": "\\b"}', "control_character", "comment"),
        (b'{"comment": "\x07"}', "control_character", "comment"),
        (b'{"comment": "\x7f"}', "control_character", "comment"),
        (b'{"comment": "\xc2\x85"}', "control_character", "comment"),
        (b'{"comment": "\\ud800"}', "control_character", "comment"),
        (b'{"\\u0000": 1}', "control_character", ""),
        (b'{"comment": "\xff"}', "invalid_utf8", "comment"),
        (b'{"comment": "\xed\xa0\x80"}', "invalid_utf8", "comment"),
        (b'{"extra": ' + b"[" * 100 + b"]" * 100 + b"}", "too_deep", "extra"),
        (b"[" * 500_000, "too_deep", ""),
        (b'{"a":' * 100_000, "too_deep", "a"),
        (b'"' + b"x" * 10_000_000 + b'"', "too_large", ""),
    ],
)
def test_bytes_that_no_store_can_hold_are_refused_with_their_place(raw: bytes, reason: str, field: str) -> None:
    error = refused(raw)
    assert (error.reason, error.field) == (reason, field)
    assert len(error.redacted) <= 16_384
    error.redacted.encode()
    assert "\0" not in error.redacted


PERSONAL = "Write ada.lovelace+x@mail.example.org, call +44 20 7946 0958 or (650) 253-0000, card 4111-1111-1111-1111."
SECRETS = ("lovelace", "7946", "253-0000", "4111", "bob")


@pytest.mark.parametrize(
    "raw",
    [
        wire(messages=[{"role": "user", "content": PERSONAL}], user="bob"),
        wire(response=PERSONAL, correction=PERSONAL + "!", comment=PERSONAL, user="bob"),
        wire(rating=..., preferred=PERSONAL, rejected="x", user="bob"),
        wire(note={"deep": [PERSONAL, {PERSONAL: 4111111111111111}]}, features={"n": PERSONAL}, user="bob"),
        wire(id="ada.lovelace@x.org", interaction="4111 1111 1111 1111", tenant="+44 20 7946 0958", user="bob"),
    ],
)
def test_nothing_of_a_person_is_stored(raw: bytes) -> None:
    record = read(raw)
    kept = repr(record)
    assert not [secret for secret in SECRETS if secret in kept]
    assert record.user_hash == user_hash("bob", SETTINGS.user_key)


@pytest.mark.parametrize(
    "raw",
    [
        wire(comment=PERSONAL, user="bob", rating=7),
        wire(comment=PERSONAL, user=["bob"], id="ada.lovelace@x.org"),
        wire(comment=PERSONAL, user="bob", deployment=PERSONAL),
        wire(comment=PERSONAL, user="bob")[:-1],
        wire(comment=PERSONAL, user="bob").replace(b"@", b"\\u0040")[:-1],
        wire(comment=PERSONAL, user="bob")[:-1] + b', "x": NaN}',
        wire(comment=PERSONAL, user="bob")[:-1] + b', "x": "\xff"}',
        wire(comment=PERSONAL, user="bob")[:-1] + b', "user": "bob"}',
        json.dumps(
            {"specversion": "1.0", "id": "1", "source": "s", "data": valid(user="bob", comment=PERSONAL)}
        ).encode(),
        json.dumps({"kind": "erase", "id": "e", "erase": {"user": "bob"}, "note": PERSONAL}).encode(),
        json.dumps({"user": "bob", "comment": PERSONAL + "x" * 2_000_000}).encode(),
    ],
)
def test_nothing_of_a_person_is_in_a_dead_letter(raw: bytes) -> None:
    error = refused(raw)
    kept = error.redacted + str(error) + error.field + error.record
    assert not [secret for secret in SECRETS if secret in kept]


@pytest.mark.parametrize(
    "text",
    [
        "I paid 1234567 on 2026-11-17 at 03:12:00.",
        "Order 550e8400-e29b-41d4-a716-446655440000 is late",
        "Pi is 3.14159265358979",
        "1234 5678 9012 3456 is no card (Luhn)",
        "me @ home, a@b",
    ],
)
def test_numbers_that_are_nobody_s_stay(text: str) -> None:
    assert read(wire(comment=text)).body["comment"] == text


def test_full_width_signs_hide_no_address() -> None:
    assert "lovelace" not in repr(read(wire(comment="ada.lovelace\uff20mail\uff0eexample")))


@pytest.mark.parametrize("unit", ["4 ", "a@", "+1 650 253 0000 ", "1-", '"a" ', "@a.", "4111111111111111", "( 650 "])
def test_masking_a_megabyte_takes_seconds_at_most(unit: str) -> None:
    text = unit * (900_000 // len(json.dumps(unit)))
    start = time.process_time()
    read(wire(comment=text))
    assert time.process_time() - start < 10


def test_one_question_is_always_in_one_fold() -> None:
    one = read(wire(messages=[{"role": "user", "content": "How do I TOP UP"}]))
    other = read(
        wire(id="r-2", messages=[{"role": "system", "content": "s"}, {"role": "user", "content": " how do i top-up? "}])
    )
    assert one.prompt_hash == other.prompt_hash
    assert one.fold == other.fold
    folds = [read(wire(messages=..., prompt=f"Question {number}?")).fold for number in range(1000)]
    assert 150 < folds.count("judge") < 250


def test_the_commitment_is_of_the_content_under_a_key_of_its_own() -> None:
    one, same = read(wire()), read(wire())
    assert one.commitment != same.commitment
    assert one.content_hash == same.content_hash
    content = {"deployment": one.deployment, "id": one.id, "time": one.time, "rating": one.rating, "body": one.body}
    assert commit(one.commitment_key, **content) == one.commitment
    assert commit(one.commitment_key, **(content | {"rating": -1.0})) != one.commitment


def test_a_changed_record_has_another_content_hash() -> None:
    assert read(wire()).content_hash == read(json.dumps(valid(), indent=1, sort_keys=True).encode()).content_hash
    assert read(wire()).content_hash == read(wire(kind="feedback", rating=1.0)).content_hash
    assert read(wire()).content_hash != read(wire(comment="more")).content_hash


def test_erasures_name_ids_or_a_user_under_every_known_key() -> None:
    assert read(wire(kind="erase", erase={"ids": ["a", "b", "a"]})).ids == ("a", "b")
    assert read(wire(kind="erase", erase=["a"])).ids == ("a",)
    rotated = replace(SETTINGS, user_key=b"new", key_version=2, old_user_keys={1: SETTINGS.user_key})
    erase = parse(wire(kind="erase", erase={"user": "bob"}), (), rotated, NOW)
    assert isinstance(erase, Erase)
    assert set(erase.user_hashes) == {user_hash("bob", b"new"), user_hash("bob", SETTINGS.user_key)}


EVENT = {
    "specversion": "1.0",
    "id": "ce-1",
    "source": "/shop",
    "type": "feedback.given",
    "time": "2026-11-17T03:12:00Z",
}
BINARY = tuple((f"ce_{name}", value.encode()) for name, value in EVENT.items())


def test_a_structured_cloud_event_is_unwrapped_and_lends_id_and_time() -> None:
    bare = valid(id=..., time=...)
    record = read(json.dumps(EVENT | {"data": bare}).encode())
    assert (record.id, record.time) == ("ce-1", 1794885120.0)
    assert record.body["extra"]["cloudevent"] == {"source": "/shop", "type": "feedback.given"}
    encoded = base64.b64encode(json.dumps(valid()).encode()).decode()
    assert read(json.dumps(EVENT | {"data_base64": encoded}).encode()).id == "r-1"


def test_a_binary_cloud_event_is_unwrapped() -> None:
    assert read(wire(id=...), *BINARY).id == "ce-1"
    assert read(wire(), *BINARY, ("content-type", b"application/json; charset=utf-8")).id == "r-1"


@pytest.mark.parametrize(
    ("raw", "headers", "field"),
    [
        (json.dumps(EVENT | {"specversion": "0.3", "data": {}}).encode(), (), "specversion"),
        (json.dumps({"specversion": "1.0", "id": "1", "data": {}}).encode(), (), "source"),
        (json.dumps(EVENT | {"data_base64": "%"}).encode(), (), "data_base64"),
        (json.dumps(EVENT | {"datacontenttype": "text/xml", "data": {}}).encode(), (), "datacontenttype"),
        (json.dumps(EVENT).encode(), (("content-type", b"application/cloudevents+json"),), "data"),
        (b"[]", (("content-type", b"application/cloudevents-batch+json"),), "content-type"),
        (wire(), (("ce_specversion", b"1.0"), ("ce_id", b"x")), "ce_source"),
        (wire(), (*BINARY, ("content-type", b"text/xml")), "content-type"),
    ],
)
def test_a_broken_envelope_is_refused_by_name(raw: bytes, headers: Any, field: str) -> None:
    error = refused(raw, *headers)
    assert error.reason in ("cloudevents", "missing")
    assert error.field == field


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01t00:00:00.5z", 0.5),
        ("1970-01-01T02:00:00+01:00", 3600.0),
        ("1970-01-01T00:00:00-00:30", 1800.0),
        ("1998-12-31T23:59:60Z", 915148800.0),
    ],
)
def test_times_are_rfc_3339(text: str, seconds: float) -> None:
    assert moment({"time": text}, NOW) == seconds


def test_a_clock_may_be_five_minutes_ahead_and_no_more() -> None:
    assert moment({"time": "2026-11-18T11:11:40Z"}, NOW)
    with pytest.raises(Rejected, match="ahead"):
        moment({"time": "2026-11-18T11:11:41Z"}, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*valid(), "user", "features", "correction", "erase", "kind", "x"]), JSON))
def test_whatever_comes_is_read_or_refused(changes: dict[str, Any]) -> None:
    # Nothing but a refusal may be raised.
    with contextlib.suppress(Rejected):
        assert parse(json.dumps(valid() | changes).encode(), (), SETTINGS, NOW)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with pytest.raises(Rejected):
        read(raw)


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
