"""Training methods, one file each: `Options` and `train(job) -> dict`, run in a child.

Owns: the contract, the whitelist of names, and the strict reading of options. Refuses to know which method is right
(`policies.method`) and any heavy library. Called by `daemon.config` (options), `daemon.act` (entries) and the children.

`job.inputs`: deployment, step ("candidate" or "teacher"), dataset (path of train.jsonl), champion and base (Ref),
teacher (Ref or null), depth (adapter updates that the champion stands on: 0 means a fresh adapter), method, options,
cache (folder of soft targets), prompts. `job.output` gets the model's files only. The result: kind ("adapter" or
"base"), engine, base (name), depth, method, seconds, tokens, metrics {...}.
"""

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol, TypeVar, cast, get_args, get_type_hints

from daemon.jobs import Job
from policies.errors import Misconfigured

METHODS = ("echo", "lora", "full", "distill")

T = TypeVar("T")


class Method(Protocol):
    """What a file of this folder offers."""

    Options: type

    def train(self, job: Job) -> dict[str, Any]:
        """Make a version in `job.output`."""
        ...


def load(name: str) -> Method:
    """The method of that name. Raises: Misconfigured, when it isn't one of ours."""
    if name not in METHODS:
        raise Misconfigured(f"unknown training method {name!r}", hint=f"one of {', '.join(METHODS)}")
    return cast(Method, importlib.import_module(f"daemon.training.{name}"))


def entry(name: str) -> str:
    """The job entry of a method. Raises: Misconfigured, when it isn't one of ours."""
    if name not in METHODS:
        raise Misconfigured(f"unknown training method {name!r}", hint=f"one of {', '.join(METHODS)}")
    return f"daemon.training.{name}:train"


def parse(options: type[T], values: Mapping[str, Any]) -> T:
    """Read a table into a method's frozen `Options`: nothing unknown, nothing coerced but an int to a float.

    Raises: Misconfigured, naming the key and what would be right; ValueErrors of the class itself likewise.
    """
    hints = get_type_hints(options)
    known = {field.name: hints[field.name] for field in fields(cast(Any, options))}
    for name, value in values.items():
        if name not in known:
            raise Misconfigured(f"unknown option {name!r}", hint=f"one of {', '.join(sorted(known))}")
        wanted = known[name]
        kinds = get_args(wanted) or (wanted,)
        if type(value) not in kinds and not (wanted is float and type(value) is int):
            raise Misconfigured(
                f"option {name} = {value!r}", hint=f"it takes a {' or '.join(kind.__name__ for kind in kinds)}"
            )
    try:
        return options(**{name: float(v) if known[name] is float else v for name, v in values.items()})
    except ValueError as problem:
        raise Misconfigured(str(problem), hint="see the options of the method in the README") from problem
