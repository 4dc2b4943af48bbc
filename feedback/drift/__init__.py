"""The contract of a drift detector, and its loader.

A detector is one file here: a frozen `Options` and `measure(reference: Window, current: Window, options) -> DriftReport`
on two windows of one kind. One that can leave evidence also offers `report(reference, current, options, folder)`, which
writes files there and names them in the report. The name in the policy is the file's name. Owns: the whitelist.
Refuses to know thresholds and where windows come from. Called by `daemon.looking` and `daemon.drifting`.
"""

import importlib
import pkgutil
from types import ModuleType

from policies.errors import Misconfigured


def names() -> tuple[str, ...]:
    """The detectors there are: this folder is the whitelist, so that a new one is a new file."""
    return tuple(sorted(item.name for item in pkgutil.iter_modules(__path__) if not item.ispkg))


def load(name: str) -> ModuleType:
    """The module of a detector by its name in a policy.

    Raises: Misconfigured for a name that is none of ours.
    """
    if name not in names():
        raise Misconfigured(f"there is no drift detector {name!r}", hint=f"there are: {', '.join(names())}")
    return importlib.import_module(f"feedback.drift.{name}")
