"""The contract of a serving target: one file here offers `Options`, `SPLITS` and `Target(options)`.

A target serves versions to a product. It asks learnd for nothing, it is told, and every change of what it serves
carries a fencing token: one that is older than the newest seen is refused. Owns: the protocol, the values, the
whitelist. Refuses to know which version should serve. Called by `daemon.serving`, `daemon.proving`, `daemon.service`.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from daemon.models import Conversation, Ref
from daemon.options import Place, build
from policies.errors import Misconfigured

NAMES = ("files",)


@dataclass(frozen=True, slots=True)
class Serving:
    """What a target says of itself: the share in (0, 1] of each version it serves, and the newest token it saw."""

    shares: Mapping[str, float] = field(default_factory=dict)
    token: int = 0


@dataclass(frozen=True, slots=True)
class Answers:
    """What was answered, in the order of the prompts; `logprobs` are nats of each whole answer, empty where unknown."""

    texts: tuple[str, ...]
    logprobs: tuple[float, ...] = ()


class Target(Protocol):
    """Where versions are served. Every call may be repeated: the second time changes nothing."""

    def load(self, ref: Ref) -> None:
        """Bring a version there, so that `route` can choose it. Raises: Refused, Transient, Corrupt."""
        ...

    def route(self, shares: Mapping[str, float], token: int) -> None:
        """Serve these loaded versions in these shares (they sum to 1). Raises: Refused (an older token), Transient."""
        ...

    def serving(self) -> Serving:
        """What is served now. Raises: Transient."""
        ...

    def answer(self, prompts: Sequence[Conversation], version: str, *, max_new_tokens: int = 128) -> Answers:
        """Greedy answers as users get them from `version`. Raises: Refused where it isn't served, Transient."""
        ...

    def unload(self, version: str) -> None:
        """Let a version go that isn't served. Raises: Refused where it is, Transient."""
        ...


def load(kind: str) -> ModuleType:
    """The target's module.

    Raises: Misconfigured where there is no such target.
    """
    if kind not in NAMES:
        raise Misconfigured(f"there is no target {kind!r}", hint=f"one of: {', '.join(NAMES)}")
    return importlib.import_module(f"daemon.targets.{kind}")


def connect(kind: str, options: Mapping[str, Any]) -> Target:
    """A target from its kind and options as plain values, the way they travel to a job.

    Raises: Misconfigured where kind or options can't be used.
    """
    module = load(kind)
    made: Target = module.Target(build(module.Options, options, Place("the job's inputs", "target")))
    return made


def check_shares(shares: Mapping[str, float]) -> None:
    """Nothing where the shares are positive and sum to 1.

    Raises: Misconfigured.
    """
    if not shares or any(not 0 < share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise Misconfigured(f"shares {dict(shares)} don't sum to 1", hint="for example one version with 1.0")
