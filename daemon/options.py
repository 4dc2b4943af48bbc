"""A table of a configuration file -> a frozen dataclass, strictly: nothing unknown, nothing coerced, nothing guessed.

Owns: the messages (file, key, what would be right) and where a relative path starts. Refuses to know any option: each
plug-in has its own `Options`. Called by `daemon.config`, `daemon.policyfile` and whoever reads a table of a person.
"""

import dataclasses
import importlib
import json
import math
import pkgutil
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from policies.errors import Misconfigured

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a value stands: the file as a person names it, the table, and the folder that relative paths start from."""

    source: str
    table: str = ""
    base: Path | None = None

    def inside(self, key: str) -> "Place":
        """The place of a table inside this one."""
        return dataclasses.replace(self, table=f"{self.table}.{key}" if self.table else key)

    def key(self, name: str) -> str:
        """`file: table.name`, the way every message begins."""
        return f"{self.source}: {self.table}.{name}" if self.table else f"{self.source}: {name}"


def build(cls: type[T], table: object, place: Place) -> T:
    """Make `cls` from a parsed table; tables inside become the dataclasses that `cls` names.

    Raises: Misconfigured naming file, key and what would be right.
    """
    if not isinstance(table, Mapping):
        raise Misconfigured(f"{place.source}: {place.table} must be a table", hint=f"write it as [{place.table}]")
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init}  # type: ignore[arg-type]
    refuse_unknown(table, fields, place)
    types = get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, item in fields.items():
        if name in table:
            values[name] = _value(types[name], table[name], place, name)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise Misconfigured(f"{place.key(name)} is missing", hint=f"it is required: {described(types[name])}")
    try:
        return cls(**values)
    except ValueError as error:
        raise Misconfigured(
            f"{place.source}: {place.table}: {error}", hint="see the comments of learnd init"
        ) from error


def refuse_unknown(table: Iterable[str], known: Iterable[str], place: Place) -> None:
    """Refuse the first key of `table` that isn't known, naming the nearest right one.

    Raises: Misconfigured.
    """
    names = sorted(known)
    for key in table:
        if key in names:
            continue
        near = get_close_matches(key, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
        raise Misconfigured(f"{place.key(key)} is no setting", hint=hint)


def check_finite(value: object, place: Place, name: str) -> None:
    """Refuse `nan` and `inf`, which TOML allows and no setting means.

    Raises: Misconfigured.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise Misconfigured(f"{place.key(name)} is {value}", hint="write a finite number")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_finite(inner, place.inside(name), str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            check_finite(inner, place, name)


def names(package: str) -> tuple[str, ...]:
    """The plug-ins of a package, without importing one: its own whitelist where it has one, else its modules."""
    found = importlib.import_module(package)
    listed = getattr(found, "NAMES", None) or getattr(found, "METHODS", None)
    if listed:
        return tuple(sorted(listed))
    return tuple(sorted(item.name for item in pkgutil.iter_modules(found.__path__) if not item.ispkg))


def plugin(package: str, name: str, place: Place, key: str = "kind") -> ModuleType:
    """Import `package.name`, which must offer `Options`.

    Raises: Misconfigured where there is no such plug-in.
    """
    check_name(package, name, place, key)
    module = importlib.import_module(f"{package}.{name}")
    if not hasattr(module, "Options"):
        raise Misconfigured(f"{place.key(key)} = {name!r} takes no options", hint="leave its table out")
    return module


def check_name(package: str, name: str, place: Place, key: str) -> None:
    """Refuse a name that is no plug-in of `package`, naming the nearest one; imports none of them.

    Raises: Misconfigured.
    """
    known = names(package)
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        raise Misconfigured(f"{place.key(key)} = {name!r} is not known", hint=hint)


def described(kind: object) -> str:
    """A type in a reader's words."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(str(item.value) for item in kind)
    text = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    if isinstance(kind, type) and kind in text:
        return text[kind]
    return str(kind).replace("typing.", "")


def _value(kind: Any, value: Any, place: Place, name: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, place.inside(name))
    check_finite(value, place, name)
    try:
        # JSON rules, strictly: a list is a tuple, a text a path or a word of an enum, and nothing else is coerced.
        made = _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Misconfigured(
            f"{place.key(name)} = {value!r}: {_lower(first['msg'])}", hint=f"write {described(kind)}"
        ) from None
    except TypeError as error:
        raise Misconfigured(f"{place.key(name)} = {value!r} has a type that isn't used here", hint=str(error)) from None
    return _absolute(made, place.base)


def _absolute(value: Any, base: Path | None) -> Any:
    if base is None:
        return value
    if isinstance(value, Path):
        return base / value.expanduser()
    if isinstance(value, tuple) and any(isinstance(item, Path) for item in value):
        return tuple(_absolute(item, base) for item in value)
    return value


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
