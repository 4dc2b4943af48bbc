"""Who gets the accelerator: proof and rollback before evaluation before learning, least-served first.

Owns: the order and the reason of whoever waits. Refuses to know devices. Called by `daemon.loop` once a tick, over all
slots; what it answers is in the next snapshot as `granted` and `not_granted`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from policies.actions import Action, Evaluate, Promote, Ramp, Rollback, Train
from policies.words import count

PRIORITY = {"rollback": 0, "proof": 1, "evaluation": 2, "learning": 3}


@dataclass(frozen=True, slots=True)
class Want:
    """A slot that wants the accelerator, or has it (`running`). `served`: seconds had this week; `since`: asked at."""

    slot: str
    kind: str
    served: float = 0.0
    since: float = 0.0
    running: bool = False


@dataclass(frozen=True, slots=True)
class Resources:
    """`jobs`: how many may run at once. `absent`: why none can, where no device is there."""

    jobs: int = 1
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to one want, with the reason when it is no."""

    slot: str
    kind: str
    granted: bool
    reason: str = ""


def kind(action: Action) -> str:
    """What an action wants of the accelerator: a key of `PRIORITY`, or "" for nothing."""
    if isinstance(action, Rollback):
        return "rollback"
    if isinstance(action, Promote | Ramp):
        return "proof"
    if isinstance(action, Evaluate):
        return "evaluation"
    return "learning" if isinstance(action, Train) else ""


def grant(wants: Iterable[Want], resources: Resources) -> tuple[Grant, ...]:
    """One answer a want, in the order of service. What runs keeps its place, and a rollback never waits."""
    order = sorted(wants, key=lambda w: (not w.running, PRIORITY.get(w.kind, len(PRIORITY)), w.served, w.since, w.slot))
    grants: list[Grant] = []
    holders: list[Want] = []
    for want in order:
        if want.kind == "rollback" or want.running:
            granted, reason = True, ""
        elif resources.absent:
            granted, reason = False, resources.absent
        elif len(holders) < resources.jobs:
            granted, reason = True, ""
        else:
            granted, reason = False, _behind(holders)
        if granted and want.kind != "rollback":
            holders.append(want)
        grants.append(Grant(want.slot, want.kind, granted, reason))
    return tuple(grants)


def _behind(holders: list[Want]) -> str:
    if not holders:
        return "no job may run here"
    first = holders[0]
    more = f" and {count(len(holders) - 1)} more" if len(holders) > 1 else ""
    return f"the accelerator is with {first.slot} ({first.kind}){more}"
