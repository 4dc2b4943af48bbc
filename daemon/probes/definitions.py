"""Definitions of checks: which kinds there are, and what makes one valid.

Owns: that an item which could prove nothing is refused when it is imported, with what would be right. Refuses to score
(`daemon.probes.checks`). Called by `daemon.probes.checks` and `daemon.golden_lines`.
"""

import math
import re
from collections.abc import Callable
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from daemon.probes.texts import normalise, squash
from policies.errors import Refused

OTHERS = (15, 4095)  # texts of the same form that a canary is ranked among


def validate(kind: str, value: Any) -> None:
    """Nothing where (kind, value) is a definition that can be scored.

    Raises: Refused with what would be right in the hint.
    """
    if kind not in _VALID:
        raise Refused(f"check kind {kind!r} is not known", hint=f"one of: {', '.join(KINDS)}")
    _VALID[kind](kind, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _valid_text(kind: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"check {kind} needs a text as its value, not {value!r}", hint='"value": "the expected answer"')


def _valid_words(kind: str, value: Any) -> None:
    _valid_text(kind, value)
    if not normalise(value):
        raise Refused(f"check {kind} can't use {value!r}: only punctuation", hint="use check exact for punctuation")


def _valid_list(kind: str, value: Any) -> None:
    if isinstance(value, list) and value:
        for text in value:
            _valid_words(kind, text)
        return
    _valid_words(kind, value)


def _valid_canary(kind: str, value: Any) -> None:
    _valid_list(kind, value)
    short = [text for text in ([value] if isinstance(value, str) else value) if len(squash(text)) < 4]
    if short:
        hint = "a canary needs four letters or digits at least, else it is found by chance"
        raise Refused(f"check {kind}: {short[0]!r} is too short", hint=hint)


def _valid_regex(kind: str, value: Any) -> None:
    _valid_text(kind, value)
    try:
        matches_nothing = re.compile(value).search("") is not None
    except re.error as error:
        raise Refused(
            f"check {kind}: {value!r} is no regular expression: {error}", hint="Python's re syntax"
        ) from error
    if matches_nothing:
        raise Refused(f"check {kind}: {value!r} matches an empty answer", hint="an item that can't fail proves nothing")


def _valid_schema(kind: str, value: Any) -> None:
    if not isinstance(value, dict) or not value:
        raise Refused(f"check {kind} needs a JSON schema as its value", hint='"value": {"type": "object", …}')
    try:
        Draft202012Validator.check_schema(value)
    except SchemaError as error:
        raise Refused(f"check {kind}: the schema is not valid: {error.message}", hint="JSON Schema 2020-12") from error
    resolver = Registry().with_resource("", DRAFT202012.create_resource(value)).resolver()
    for target in _refs(value):
        try:
            resolver.lookup(target)
        except Unresolvable:
            raise Refused(f"check {kind}: $ref {target!r} leads nowhere", hint="put it under $defs") from None
    try:
        Draft202012Validator(value, registry=Registry()).is_valid(None)
    except RecursionError:
        raise Refused(f"check {kind}: the schema refers to itself without an end", hint="remove the $ref") from None


def _refs(node: Any) -> list[str]:
    if isinstance(node, dict):
        here = [str(node[key]) for key in ("$ref", "$dynamicRef") if key in node]
        return here + [ref for child in node.values() for ref in _refs(child)]
    return [ref for child in node for ref in _refs(child)] if isinstance(node, list) else []


def _valid_numeric(kind: str, value: Any) -> None:
    if isinstance(value, dict) and set(value) <= {"value", "tolerance"} and _is_number(value.get("value")):
        tolerance = value.get("tolerance", 0)
        if _is_number(tolerance) and tolerance >= 0:
            return
    elif _is_number(value):
        return
    raise Refused(f"check {kind} needs a number, not {value!r}", hint='"value": 4 or {"value": 4, "tolerance": 0.1}')


def _valid_phrases(kind: str, value: Any) -> None:
    if value is None:
        return
    phrases = value.get("phrases") if isinstance(value, dict) and set(value) == {"phrases"} else None
    if not isinstance(phrases, list) or not all(isinstance(p, str) and p.strip() for p in phrases) or not phrases:
        raise Refused(f"check {kind} takes no value, or more phrases", hint='"value": {"phrases": ["no way"]}')


def _valid_similar(kind: str, value: Any) -> None:
    given = {"reference": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or set(given) - {"reference", "threshold"}:
        raise Refused(f"check {kind} needs a reference", hint='"value": {"reference": "…", "threshold": 0.6}')
    _valid_words(kind, given.get("reference"))
    threshold = given.get("threshold", 0.5)
    if not _is_number(threshold) or not 0 < threshold <= 1:
        raise Refused(f"check {kind} needs a threshold above 0, at most 1", hint='"threshold": 0.6')


def _valid_nothing(kind: str, value: Any) -> None:
    if value is not None:
        raise Refused(f"check {kind} takes no value", hint=f'"check": {{"kind": "{kind}"}}')


def _valid_choice(kind: str, value: Any) -> None:
    options = value.get("options") if isinstance(value, dict) and set(value) == {"options", "answer"} else None
    if not isinstance(options, list) or len(options) < 2 or value["answer"] not in options:
        hint = '"value": {"options": ["Paris", "Rome"], "answer": "Paris"}'
        raise Refused(f"check {kind} needs two options at least, and which of them is right", hint=hint)
    for text in options:
        _valid_text(kind, text)
    if len({text.strip() for text in options}) < len(options):
        raise Refused(f"check {kind} has an option twice", hint="then no answer is right")


def _valid_exposure(kind: str, value: Any) -> None:
    if not isinstance(value, dict) or set(value) - {"canary", "others"}:
        raise Refused(f"check {kind} needs a canary", hint='"value": {"canary": "the code is 731904", "others": 255}')
    _valid_text(kind, value.get("canary"))
    others, least = value.get("others", 255), OTHERS[0]
    if not isinstance(others, int) or isinstance(others, bool) or not least <= others <= OTHERS[1]:
        raise Refused(f"check {kind} ranks a canary among {least} to {OTHERS[1]} others", hint='"others": 255')
    digits = sum(character in "0123456789" for character in value["canary"])
    if digits < math.log10(others + 1) + 1:
        hint = "its digits are what is secret: there must be ten times as many as are compared"
        raise Refused(f"check {kind}: {value['canary']!r} has too few digits for {others} others", hint=hint)


def _valid_judge(kind: str, value: Any) -> None:
    if not isinstance(value, dict) or set(value) - {"reference", "criterion", "good", "bad"}:
        hint = '"value": {"reference": "…", "good": ["…"], "bad": ["…"]}'
        raise Refused(f"check {kind} needs a reference and labelled answers", hint=hint)
    _valid_text(kind, value.get("reference"))
    if "criterion" in value:
        _valid_text(kind, value["criterion"])
    for label in ("good", "bad"):
        if not isinstance(value.get(label), list) or not value[label]:
            hint = "they measure how often the judge itself is wrong"
            raise Refused(f"check {kind} needs answers that a person found {label}", hint=hint)
        for text in value[label]:
            _valid_text(kind, text)


_VALID: dict[str, Callable[[str, Any], None]] = {
    "exact": _valid_text,
    "normalised": _valid_words,
    "contains": _valid_list,
    "regex": _valid_regex,
    "json_schema": _valid_schema,
    "numeric": _valid_numeric,
    "refuse": _valid_phrases,
    "comply": _valid_phrases,
    "absent": _valid_canary,
    "reference": _valid_words,
    "similar": _valid_similar,
    "private": _valid_nothing,
    "choice": _valid_choice,
    "exposure": _valid_exposure,
    "judge": _valid_judge,
}
KINDS: tuple[str, ...] = tuple(_VALID)
