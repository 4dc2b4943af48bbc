"""What was decided can be read back exactly, and nothing is guessed where it can't."""

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon import codec
from policies import actions
from policies.errors import Corrupt
from policies.model import Claim, DriftReport, Phase, Questions, Result, Snapshot, Verdict, VersionView

SMALL = Snapshot(1.5, "bot", "", Phase.IDLE, 1.0, 7, champion=VersionView("bot@0", "base", "", ""))


def through_the_database(data: Any) -> Any:
    return json.loads(json.dumps(data, allow_nan=False))


@pytest.mark.slow
@settings(suppress_health_check=list(HealthCheck), max_examples=60, deadline=None)
@given(st.from_type(Snapshot))
def test_every_snapshot_comes_back_as_it_was(snapshot: Snapshot) -> None:
    back = codec.snapshot_from_json(through_the_database(codec.snapshot_to_json(snapshot)))
    assert codec.to_json(back) == codec.to_json(snapshot)
    assert repr(back) == repr(snapshot)  # NaN is not equal to itself, its repr is


@settings(suppress_health_check=list(HealthCheck), max_examples=100, deadline=None)
@given(st.from_type(actions.Action))
def test_every_action_comes_back_as_it_was(action: actions.Action) -> None:
    back = codec.action_from_json(through_the_database(codec.action_to_json(action)))
    assert type(back) is type(action)
    assert repr(back) == repr(action)


def test_a_verdict_and_a_drift_report_come_back_as_they_were() -> None:
    verdict = Verdict("safety", 1, Result.FAIL, "no", (Claim("harmful", Result.FAIL, 3, math.nan, None, math.inf),))
    assert repr(codec.verdict_from_json(through_the_database(codec.verdict_to_json(verdict)))) == repr(verdict)
    asked = Questions(9, 0.5, 0.4, 0.3, 0.5)
    report = DriftReport("psi", True, False, "", "none", current=(3, 9), files=("a.html",), questions=asked)
    assert codec.drift_from_json(through_the_database(codec.drift_to_json(report))) == report


def test_a_drift_report_from_before_questions_were_told_still_reads() -> None:
    data = codec.drift_to_json(DriftReport("psi", True, False, "", "none"))
    del data["questions"]
    assert codec.drift_from_json(data) == DriftReport("psi", True, False, "", "none")


def test_a_field_that_came_later_takes_its_default() -> None:
    data = codec.snapshot_to_json(SMALL)
    del data["seed"]
    assert codec.snapshot_from_json(data) == SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phase": "dreaming"}, "Snapshot.phase is str, not Phase"),
        ({"head": 7.0}, "Snapshot.head is float, not int"),
        ({"head": True}, "Snapshot.head is bool, not int"),
        ({"now": "1.5"}, "Snapshot.now is str, not float"),
        ({"tenant": None}, "Snapshot.tenant is NoneType, not str"),
        ({"champion": []}, "Snapshot.champion is no object"),
        ({"champion": {"name": "bot@0"}}, "Snapshot.champion.kind is missing"),
        ({"sets": {}}, "Snapshot.sets can't be read"),
        ({"later": 1}, "fields that this release doesn't know: later"),
        ({"cycle": {"window": [1]}}, "Snapshot.cycle.id is missing"),
    ],
)
def test_what_cannot_be_read_is_named_and_never_guessed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        codec.snapshot_from_json({**codec.snapshot_to_json(SMALL), **change})


@pytest.mark.parametrize("data", [None, [], {}, {"action": "Destroy"}, {"reason": "x"}])
def test_an_action_outside_the_union_is_no_action(data: Any) -> None:
    with pytest.raises(Corrupt):
        codec.action_from_json(data)


def test_every_action_of_the_union_is_known_by_its_name() -> None:
    assert set(codec.ACTIONS) == {kind.__name__ for kind in actions.Action.__args__}
    assert all(dataclasses.is_dataclass(kind) for kind in codec.ACTIONS.values())


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@pytest.mark.slow
def test_canonical_json_is_a_fixed_point(value: Any) -> None:
    text = codec.canonical(value)
    assert codec.is_canonical(text)
    assert b"\n" not in text


@pytest.mark.parametrize(
    "text", [b'{"b":1,"a":2}', b'{"a": 1}', b"1.0", b"[1,]", b"", b"\xff", b'"\\u0061"', b"[" * 100000]
)
def test_any_other_form_is_not_canonical(text: bytes) -> None:
    assert not codec.is_canonical(text)
