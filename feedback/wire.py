"""Bytes from the outside to a JSON value, strictly (RFC 8259, and RFC 7493 where it is stricter).

Owns: encoding, size, depth, duplicate names, numbers and characters that no store can hold. Refuses to know the schema
of a record. Called by `feedback.records` and `feedback.cloudevents`.
"""

import json
import re
from typing import Any

from policies.errors import Refused

DEPTH = 32
_WORST = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_SUSPECT = re.compile(_WORST.pattern + r"|\\[ubf]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


class Rejected(Refused):
    """A record that is not taken. `reason` is a short code, `field` the place, the message says what would be right.

    `redacted` is the body for the dead letter; `deployment`, `record` and `user_hash` what could be read of it.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(message, hint="correct the record and send it again")
        self.reason = reason
        self.field = field
        self.message = message
        self.redacted = ""
        self.deployment = ""
        self.record = ""
        self.user_hash = ""


class _Bad:
    """Stands where a value can't be one, until the walk over the tree knows its place."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        self.message = message


def decode(raw: bytes, *, max_bytes: int) -> Any:
    """The JSON value of `raw`, every string of it storable and every number finite.

    Raises: Rejected with reason too_large, too_deep, invalid_utf8, invalid_json, duplicate_key, not_a_number, range or
    control_character.
    """
    if len(raw) > max_bytes:
        raise Rejected("too_large", "", f"{len(raw):,} bytes: a record is at most {max_bytes:,} bytes")
    try:
        text, broken = raw.decode(), ""
    except UnicodeDecodeError as error:
        text = raw.decode(errors="surrogateescape")
        broken = f"byte 0x{raw[error.start]:02x} at position {error.start}: a record is encoded in UTF-8"
    _check_depth(text)
    reader = _Reader()
    try:
        value = reader.load(text)
    except json.JSONDecodeError as error:
        _name_control_character(text)
        wrong = broken or f"{error.msg} at line {error.lineno} column {error.colno}: send one JSON object"
        raise Rejected("invalid_utf8" if broken else "invalid_json", "", wrong) from None
    # Most messages hold nothing that only a walk could place; a whole one is looked at by one search.
    if reader.bad or broken or _SUSPECT.search(text):
        _walk(value, "", broken)
    return value


class _Reader:
    """The hooks of one reading; `bad` once a value stands in for one that can't be."""

    def __init__(self) -> None:
        self.bad = False

    def load(self, text: str, *, strict: bool = True) -> Any:
        return json.loads(
            text,
            strict=strict,
            object_pairs_hook=self._pairs,
            parse_int=self._integer,
            parse_float=self._float,
            parse_constant=self._constant,
        )

    def _refuse(self, reason: str, message: str) -> _Bad:
        self.bad = True
        return _Bad(reason, message)

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    value[name] = self._refuse("duplicate_key", "the name stands twice: give each field once")
                seen.add(name)
        return value

    def _integer(self, text: str) -> int | _Bad:
        # int() refuses thousands of digits with an error of its own, and no column holds more than 64 bits.
        if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**63:
            return self._refuse("range", "a whole number has at most 64 bits")
        return value

    def _float(self, text: str) -> float | _Bad:
        value = float(text)
        if abs(value) == float("inf"):
            return self._refuse("range", "the number is too large for a double (1.8e308)")
        return value

    def _constant(self, text: str) -> _Bad:
        return self._refuse("not_a_number", f"{text} is not JSON: give a finite number or leave the field out")


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH:
        return
    depth, field = 0, ""
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > DEPTH:
                raise Rejected("too_deep", field, f"nested deeper than {DEPTH} levels: send it flatter")
        elif token in "]}":
            depth -= 1
        elif depth == 1:
            field = printable(token.strip('"')[:64])


def _name_control_character(text: str) -> None:
    try:
        _walk(_Reader().load(text, strict=False), "", "")
    except json.JSONDecodeError:
        return


def _walk(value: Any, place: str, broken: str) -> None:
    if isinstance(value, str):
        _check_text(value, place, broken)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, place, broken)
            _walk(item, f"{place}.{name}" if place else name, broken)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _walk(item, f"{place}[{index}]", broken)
    elif isinstance(value, _Bad):
        raise Rejected(value.reason, place, value.message)


def _check_text(text: str, place: str, broken: str) -> None:
    found = _WORST.search(text)
    if found is None:
        return
    if broken and "\udc80" <= found.group() <= "\udcff":
        raise Rejected("invalid_utf8", place, broken)
    code = ord(found.group())
    what = "half a surrogate pair" if code > 0xFFFF // 2 else "a control character"
    raise Rejected(
        "control_character", place, f"U+{code:04X} is {what}: leave it out (of these only tab and line breaks are text)"
    )


def printable(text: str) -> str:
    """The text with everything that a database refuses to hold written as an escape."""
    return _WORST.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def canonical(value: Any) -> bytes:
    """One spelling of a JSON value: sorted names, every number as a double, UTF-8; the same after any database."""
    return json.dumps(_doubles(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _doubles(value: Any) -> Any:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is dict:
        return {name: item if type(item) is str else _doubles(item) for name, item in value.items()}
    if kind is list or kind is tuple:
        return [_doubles(item) for item in value]
    return float(value) + 0.0  # -0.0 comes back from PostgreSQL as 0
