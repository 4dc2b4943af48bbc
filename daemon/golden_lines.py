"""One line of a golden file: what it must be, and what to say where it isn't.

Owns: the fields of an item and the reasons of refusal, each with line, field and what would be right. Refuses to know
the database. Called by `daemon.goldens`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daemon.probes import checks, definitions
from policies.errors import Refused

FIELDS = ("id", "slice", "messages", "prompt", "check", "reference", "unsafe", "licence")
TURNS = ("system", "user", "assistant")
SLICE_CHECKS = {  # of a safety set; the first one is meant where none is given
    "harmful": ("refuse",),
    "jailbreak": ("refuse",),
    "benign": ("comply",),
    "pii": ("private", "refuse", "absent"),
    "canary": ("absent",),
    "exposure": ("exposure",),
}
FROM_REFERENCE = ("exact", "normalised", "contains", "reference", "similar")
MAX_LINE, MAX_LINES, MAX_ID = 1024 * 1024, 100_000, 200


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line was refused: `line` counts from 1 (0: the file), `message` says what is wrong and would be right."""

    line: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Line:
    """A valid item: `body` is its full form {"id", "slice", "messages", "check": {"kind", "value"}, "reference"}."""

    id: str
    slice: str
    body: dict[str, Any]


class _WrongError(Exception):
    """A field of a line that can't be used."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def read_lines(text: str, role: str) -> tuple[list[Line], list[Problem]]:
    """All items of a file for a set of this role, and all that is wrong with it. Blank lines are skipped."""
    found: list[Line] = []
    problems: list[Problem] = []
    ids: dict[str, int] = {}
    contents: dict[str, int] = {}
    # Not splitlines(): that would also cut at U+2028, which may stand inside a JSON string.
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not raw.strip():
            continue
        try:
            line = _line(raw, role)
            _unseen(ids, line.id, number, "id")
            _unseen(
                contents, json.dumps([line.body["messages"], line.body["check"]], sort_keys=True), number, "messages"
            )
        except _WrongError as wrong:
            problems.append(Problem(number, wrong.field, str(wrong)))
            continue
        found.append(line)
    if not found and not problems:
        problems.append(Problem(0, "", 'the file holds no item; one a line: {"id": "a", "prompt": "…", "check": {…}}'))
    if len(found) > MAX_LINES:
        problems.append(Problem(0, "", f"{len(found)} items; a set holds {MAX_LINES} at most: split it"))
    return found, problems


def _line(raw: str, role: str) -> Line:
    body = _object(raw)
    unknown = sorted(set(body) - set(FIELDS))
    if unknown:
        raise _WrongError(unknown[0], f"unknown field; known are {', '.join(FIELDS)}")
    name = _text(body, "id", MAX_ID)
    part = _text(body, "slice", MAX_ID, required=role == "safety")
    reference = _text(body, "reference", MAX_LINE, required=False)
    check = _check(body, role, part, reference)
    clean: dict[str, Any] = {"id": name, "slice": part, "messages": _messages(body), "check": check}
    licence = {"licence": _text(body, "licence", MAX_ID)} if "licence" in body else {}
    unsafe = {"unsafe": _unsafe(body, role, check)} if "unsafe" in body else {}
    return Line(name, part, {**clean, "reference": reference, **unsafe, **licence})


def _object(raw: str) -> dict[str, Any]:
    if len(raw) > MAX_LINE:
        raise _WrongError("", f"the line has {len(raw):,} characters; {MAX_LINE:,} at most")
    try:
        body = json.loads(raw, object_pairs_hook=_no_doubles, parse_constant=_no_constant)
        raw.encode("utf-8")
        json.dumps(body, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise _WrongError("", f"not one JSON object: {error}") from None
    if not isinstance(body, dict):
        raise _WrongError("", 'not a JSON object; write {"id": …}')
    if "\\u0000" in raw or "\0" in raw:
        raise _WrongError("", "holds a null character, which no database keeps: remove it")
    return body


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) < len(pairs):
        raise ValueError("a field is given twice")
    return body


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _text(body: dict[str, Any], field: str, longest: int, *, required: bool = True) -> str:
    value = body.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value.strip()):
        raise _WrongError(
            field, "missing or empty: write a text" if not value else f"must be a text, not {_kind(value)}"
        )
    if len(value) > longest:
        raise _WrongError(field, f"{len(value):,} characters; {longest:,} at most")
    return value


def _messages(body: dict[str, Any]) -> list[dict[str, str]]:
    if ("messages" in body) == ("prompt" in body):
        raise _WrongError("messages", 'give either "messages" or "prompt"')
    if "prompt" in body:
        return [{"role": "user", "content": _text(body, "prompt", MAX_LINE)}]
    given = body["messages"]
    if not isinstance(given, list) or not given:
        raise _WrongError("messages", 'must be a list of {"role", "content"}')
    for place, message in enumerate(given):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise _WrongError(f"messages[{place}]", 'must be {"role": …, "content": …} and nothing else')
        if message["role"] not in TURNS:
            raise _WrongError(f"messages[{place}].role", f"must be one of {', '.join(TURNS)}")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise _WrongError(f"messages[{place}].content", "must be a text that isn't empty")
    if given[-1]["role"] != "user":
        raise _WrongError("messages", "the last one must be the user's: the answer is what is measured")
    return [{"role": message["role"], "content": message["content"]} for message in given]


def _check(body: dict[str, Any], role: str, part: str, reference: str) -> dict[str, Any]:
    usual = SLICE_CHECKS.get(part, ("reference",))[0] if role == "safety" else "reference"
    given = body.get("check", {"kind": usual})
    if not isinstance(given, dict) or not isinstance(given.get("kind"), str) or set(given) - {"kind", "value"}:
        raise _WrongError("check", 'must be {"kind": …, "value": …}')
    kind, value = given["kind"], given.get("value")
    if role == "safety" and kind not in SLICE_CHECKS.get(part, (kind,)):
        right = " or ".join(SLICE_CHECKS[part])
        raise _WrongError("check.kind", f"slice {part} of a safety set is checked by {right}, not {kind}")
    if kind == "judge" and role != "goldens":
        raise _WrongError("check.kind", "only goldens are put to a judge")
    if value is None and kind in FROM_REFERENCE:
        value = reference or None
    _tried(lambda: definitions.validate(kind, value))
    return {"kind": kind, "value": value}


def _unsafe(body: dict[str, Any], role: str, check: dict[str, Any]) -> str:
    """The answer that must not become likelier, which only says something where it would not pass."""
    text = _text(body, "unsafe", MAX_LINE)
    if role != "safety":
        raise _WrongError("unsafe", "only items of a safety set have an unsafe answer")
    if check["kind"] in checks.KINDS and checks.check(check["kind"], check["value"], text) == 1.0:
        raise _WrongError("unsafe", f"the item's own check, {check['kind']}, would pass it")
    return text


def _tried(work: Callable[[], None]) -> None:
    try:
        work()
    except Refused as error:
        raise _WrongError("check", f"{error} ({error.hint})" if error.hint else str(error)) from None


def _unseen(seen: dict[str, int], key: str, number: int, field: str) -> None:
    if key in seen:
        what = "the same id as" if field == "id" else "the same prompt and check as"
        raise _WrongError(field, f"{what} line {seen[key]}: counted twice it would prove more than it does")
    seen[key] = number


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "nothing")
