"""A policy that lets more through says so, sentence by sentence; a stricter one says nothing."""

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from policies import gates
from policies.loosening import CHANGES, compared, loosened
from tests.policies.worlds import OPTIONS


def changed(gate: str, **options: Any) -> dict[str, Any]:
    return {**OPTIONS, gate: replace(OPTIONS[gate], **options)}


def test_the_same_gates_are_no_looser() -> None:
    assert loosened(OPTIONS, dict(OPTIONS)) == ()


@pytest.mark.parametrize("name", gates.NAMES)
def test_every_option_of_a_gate_says_which_change_of_it_loosens(name: str) -> None:
    module = gates.load(name)
    assert set(module.LOOSER) == {field.name for field in dataclasses.fields(module.Options)}
    assert set(module.LOOSER.values()) <= set(CHANGES)


@pytest.mark.parametrize(
    ("gate", "options", "said"),
    [
        ("regression", {"margin": 0.2}, "gates.regression.margin rises from 0.1 to 0.2"),
        ("regression", {"enabled": False}, "gates.regression is switched off"),
        ("regression", {"harm_error_rate": 0.01}, "gates.regression.harm_error_rate falls from 0.05 to 0.01"),
        ("safety", {"limits": {"harmful": 0.1}, "other": 0.2}, "gates.safety.limits.benign rises from 0.1 to 0.2"),
        ("safety", {"limits": {"harmful": 0.3, "benign": 0.1}}, "gates.safety.limits.harmful rises from 0.1 to 0.3"),
        (
            "safety",
            {"limits": {"harmful": 0.1, "benign": 0.1, "pii": 0.3}},
            "gates.safety.limits.pii rises from 0.05 to",
        ),
        ("safety", {"required": ("harmful",)}, "gates.safety.required leaves out benign"),
        ("improvement", {"minimum": 5}, "gates.improvement.minimum falls from 20 to 5"),
        ("budget", {"latency_ratio": 3.0}, "gates.budget.latency_ratio rises from 1.5 to 3"),
        ("data", {"records": 0}, "gates.data.records falls from 1 to 0"),
    ],
)
def test_a_looser_option_is_named(gate: str, options: dict[str, Any], said: str) -> None:
    found = loosened(OPTIONS, changed(gate, **options))
    assert any(sentence.startswith(said) for sentence in found), found
    assert loosened(changed(gate, **options), OPTIONS) == () or gate == "safety", "and the way back is none"


def test_a_limit_of_nothing_is_no_limit() -> None:
    limited = changed("budget", latency_ms=20.0)
    assert loosened(limited, OPTIONS) == ("gates.budget.latency_ms has no limit, it was 20",)
    assert loosened(OPTIONS, limited) == ()


@pytest.mark.parametrize("name", gates.NAMES)
def test_a_gate_that_is_dropped_is_named(name: str) -> None:
    left = {key: value for key, value in OPTIONS.items() if key != name}
    assert loosened(OPTIONS, left) == (f"[gates.{name}] is gone",)
    assert loosened(left, OPTIONS) == ()


@dataclasses.dataclass(frozen=True)
class Table:
    words: tuple[str, ...] = ()
    limit: int = 0
    model: str = ""
    chat: bool = True
    by: dict[str, str] = dataclasses.field(default_factory=dict)
    batch: int = 1
    inner: "Table | None" = None


RULES: dict[str, Any] = {
    "words": "changed",
    "limit": "lower or all",
    "model": "replaced",
    "chat": "changed",
    "by": "changed",
    "batch": "never",
}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {"words": ("no", "way")}, "t.words changes from nothing to no, way"),
        ({"words": ("no", "way")}, {"words": ("way", "no")}, ""),
        ({}, {"limit": 9}, "t.limit falls from all to 9"),
        ({"limit": 9}, {"limit": 8}, "t.limit falls from 9 to 8"),
        ({"limit": 9}, {}, ""),
        ({}, {"model": "a"}, ""),
        ({"model": "a"}, {"model": "b"}, "t.model changes from a to b"),
        ({"model": "a"}, {}, "t.model changes from a to nothing"),
        ({}, {"chat": False}, "t.chat changes from true to false"),
        ({"by": {"x": "acc"}}, {"by": {"x": "f1", "a": "acc"}}, "t.by changes from x = acc to a = acc, x = f1"),
        ({}, {"batch": 7}, ""),
    ],
)
def test_options_are_compared_by_the_change_that_loosens_each(
    before: dict[str, Any], after: dict[str, Any], said: str
) -> None:
    expected = [said] if said else []
    assert list(compared("t", RULES, Table(**before), Table(**after))) == expected
    nested = compared("p", {"inner": RULES}, Table(inner=Table(**before)), Table(inner=Table(**after)))
    assert list(nested) == [f"p.inner{sentence[1:]}" for sentence in expected], "and so in a table inside"
