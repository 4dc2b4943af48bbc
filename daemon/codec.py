"""Values to JSON and back, exactly: what a decision saw and said must be readable years later.

Owns: the JSON form of the core's frozen dataclasses and of canonical JSON (RFC 8785). Refuses to know what a value
means, and to guess: an unknown field, a wrong type or a missing value without a default is an error. Called by
`daemon.loop` (storing decisions), `daemon.audit`, `daemon.registry`.
"""

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import rfc8785

from daemon.tables import VerdictRow
from policies import actions
from policies.errors import Corrupt
from policies.model import DriftReport, Snapshot, Verdict

T = TypeVar("T")

SAFE_INTEGER = 2**53 - 1  # RFC 8785 section 3.2.2.3: JSON numbers are IEEE 754 doubles
ACTIONS: dict[str, type] = {kind.__name__: kind for kind in get_args(actions.Action)}
_HINT = "it was written by another release of learnd, or edited by hand"
_NOT_FINITE = {"NaN", "Infinity", "-Infinity"}


def canonical(value: Any) -> bytes:
    """Canonical JSON of a JSON-like value (RFC 8785, UTF-8 bytes).

    What RFC 8785 can't hold is written as a string, as RFC 7493 section 2.2 advises: integers beyond 2^53 - 1, NaN and
    infinities; a lone surrogate becomes its escape. An entry must not be lost because one of its numbers is odd.
    """
    return rfc8785.dumps(_plain(value))


def is_canonical(text: bytes) -> bool:
    """Whether `text` is one JSON value in its canonical form."""
    try:
        value = json.loads(text.decode(), parse_int=_integer)
        return rfc8785.dumps(value) == text
    except (ValueError, RecursionError):
        return False


def to_json(value: Any) -> Any:
    """The JSON form of dataclasses, tuples, enums, mappings and scalars; NaN and infinities become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_json(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_json(kind: type[T], data: Any) -> T:
    """The value of type `kind` whose `to_json` is `data`; fields with a default may be missing, no other liberty.

    Raises: Corrupt where `data` is anything else, naming the field.
    """
    return cast(T, _decode(kind, data, kind.__name__))


def snapshot_to_json(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot for `Decision.snapshot`."""
    return cast(dict[str, Any], to_json(snapshot))


def snapshot_from_json(data: Any) -> Snapshot:
    """The snapshot that was stored. Raises: Corrupt where it can't be read."""
    return from_json(Snapshot, data)


def action_to_json(action: actions.Action) -> dict[str, Any]:
    """An action for `Decision.body`: its fields, and its class name under `action`."""
    return {"action": type(action).__name__, **to_json(action)}


def action_from_json(data: Any) -> actions.Action:
    """The action that was stored. Raises: Corrupt where it can't be read or is none of the union."""
    if not isinstance(data, Mapping) or data.get("action") not in ACTIONS:
        raise Corrupt(f"a stored action is none of {', '.join(ACTIONS)}", hint=_HINT)
    fields = {key: value for key, value in data.items() if key != "action"}
    return cast(actions.Action, from_json(ACTIONS[data["action"]], fields))


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict with its claims."""
    return cast(dict[str, Any], to_json(verdict))


def verdict_from_json(data: Any) -> Verdict:
    """The verdict that was stored. Raises: Corrupt where it can't be read."""
    return from_json(Verdict, data)


def verdict_from_row(row: VerdictRow) -> Verdict:
    """The verdict of a stored row. Raises: Corrupt where it can't be read."""
    return from_json(
        Verdict,
        {
            "gate": row.gate,
            "gate_version": row.gate_version,
            "result": row.result,
            "reason": row.reason,
            "claims": row.claims,
        },
    )


def drift_to_json(report: DriftReport) -> dict[str, Any]:
    """A drift report for `DriftRow.report`."""
    return cast(dict[str, Any], to_json(report))


def drift_from_json(data: Any) -> DriftReport:
    """The drift report that was stored, or that a job returned. Raises: Corrupt where it can't be read."""
    return from_json(DriftReport, data)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= SAFE_INTEGER else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name(value)
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return _plain(to_json(value))


def _integer(digits: str) -> int | float:
    # A float of up to 21 digits is canonically written without point or exponent: it comes back as what it was.
    number = int(digits)
    return number if abs(number) <= SAFE_INTEGER else float(digits)


def _name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


@lru_cache(maxsize=256)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(cast(type, kind), data, where)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        inner = [each for each in get_args(kind) if each is not type(None)]
        if data is None and len(inner) < len(get_args(kind)):
            return None
        if len(inner) == 1:
            return _decode(inner[0], data, where)
    elif origin is tuple and isinstance(data, list):
        return _decode_tuple(get_args(kind), data, where)
    elif origin in (dict, Mapping) and isinstance(data, Mapping) and all(isinstance(key, str) for key in data):
        return {key: _decode(get_args(kind)[1], item, f"{where}.{key}") for key, item in data.items()}
    elif kind is Any:
        return data
    elif isinstance(kind, type):
        return _decode_scalar(kind, data, where)
    raise Corrupt(f"{where} can't be read as {kind}", hint=_HINT)


def _decode_dataclass(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise Corrupt(f"{where} is no object", hint=_HINT)
    fields = {each.name: each for each in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - set(fields)):
        raise Corrupt(f"{where} has fields that this release doesn't know: {', '.join(unknown)}", hint=_HINT)
    absent = dataclasses.MISSING
    for name, each in fields.items():
        if name not in data and each.default is absent and each.default_factory is absent:
            raise Corrupt(f"{where}.{name} is missing", hint=_HINT)
    hints = _hints(kind)
    return kind(**{name: _decode(hints[name], item, f"{where}.{name}") for name, item in data.items()})


def _decode_tuple(parts: tuple[Any, ...], data: list[Any], where: str) -> tuple[Any, ...]:
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(_decode(parts[0], item, f"{where}[{place}]") for place, item in enumerate(data))
    if len(parts) != len(data):
        raise Corrupt(f"{where} holds {len(data)} values instead of {len(parts)}", hint=_HINT)
    return tuple(_decode(part, item, where) for part, item in zip(parts, data, strict=True))


def _decode_scalar(kind: type, data: Any, where: str) -> Any:
    if issubclass(kind, Enum) and isinstance(data, str) and data in {each.value for each in kind}:
        return kind(data)
    if kind is float and ((isinstance(data, int | float) and not isinstance(data, bool)) or data in _NOT_FINITE):
        return float(data)
    if kind is int and isinstance(data, int) and not isinstance(data, bool):
        return data
    if kind in (str, bool) and isinstance(data, kind):
        return data
    raise Corrupt(f"{where} is {type(data).__name__}, not {kind.__name__}", hint=_HINT)
