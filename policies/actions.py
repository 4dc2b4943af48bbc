"""The closed union of what learnd can do, each with the one reason that is shown everywhere.

Owns: the shape of an action. Refuses to know how it is carried out (`daemon.act`). Called by `policies.decide`.
"""

from dataclasses import dataclass, field

from policies.model import Outcome


@dataclass(frozen=True, slots=True)
class Mixture:
    """Quotas of a training set, in records: new of the window, replayed old ones, anchor items; and the draw's seed."""

    new: int
    replay: int
    anchor: int
    seed: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing. `cause` is a stable word (its change is logged); `outcome` is what the world answered, if it did."""

    reason: str
    cause: str
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Train:
    """Start (or start again) the job of one step of a cycle. `window` is (first, last] of ingest sequence."""

    reason: str
    trigger: str
    method: str
    step: str
    window: tuple[int, int]
    mixture: Mixture
    seed: int
    command: int = 0


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Publish what the job made, start its evaluation, or collect and judge it: whichever comes next."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """End the cycle without promotion. `kind`: refused, inconclusive, shadow, person, expired, superseded."""

    reason: str
    kind: str
    refused_by: tuple[str, ...] = field(default=())
    command: int = 0


@dataclass(frozen=True, slots=True)
class AskApproval:
    """Every gate passed; a person decides."""

    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Load, route, and make the target prove that it serves `version`. `share` < 1 begins a ramp."""

    reason: str
    version: str
    share: float = 1.0
    command: int = 0


@dataclass(frozen=True, slots=True)
class Ramp:
    """Give the promoted version the next share of traffic."""

    reason: str
    version: str
    share: float
    step: int


@dataclass(frozen=True, slots=True)
class Watch:
    """Keep looking at live feedback: no effect but the reason."""

    reason: str
    cause: str


@dataclass(frozen=True, slots=True)
class Settle:
    """End the watch: `proven` makes the version an outcomes baseline (and anchor, if it is the best so far)."""

    reason: str
    proven: bool


@dataclass(frozen=True, slots=True)
class Rollback:
    """Serve `to` again."""

    reason: str
    to: str
    command: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the running job and end the cycle; what is left of the wish (a rollback) comes in the next tick."""

    reason: str
    command: int = 0


@dataclass(frozen=True, slots=True)
class Fail:
    """End the cycle as failed: something broke, nobody refused."""

    reason: str


Action = Wait | Train | Evaluate | Reject | AskApproval | Promote | Ramp | Watch | Settle | Rollback | Cancel | Fail
