"""A policy: every number that a person sets, as frozen values with their units.

Owns: names, units and defaults of the settings of one deployment. Refuses to know TOML (`daemon.config` parses it) and
what a plug-in's options mean (each owns its `Options`). Called by `decide` and by whoever shows a policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.model import Mode
from policies.raters import Options as Trust

STRICT = {"extra": "forbid"}
TRUST = Trust()


@dataclass(frozen=True, slots=True)
class Triggers:
    """When to learn. `volume`: usable train records that ask for an update by themselves (0: never).

    `minimum`: fewest usable train records to learn from at all. `judge_minimum`: fewest judge records with a reference
    in the window, since improvement can't be proven without. `schedule`: a cron line in UTC ("" is never).
    `cooldown_hours` between the end of a cycle and the next. `gpu_hours_per_week`: spent beyond it, learning waits.
    `tries`: candidates one window may buy. `failure_backoff_hours`: doubled with every failure in a row.
    """

    volume: int = 1000
    minimum: int = 100
    judge_minimum: int = 20
    drift: bool = True
    teacher: bool = True
    schedule: str = ""
    cooldown_hours: float = 24.0
    gpu_hours_per_week: float = 40.0
    tries: int = 3
    failure_backoff_hours: float = 1.0


@dataclass(frozen=True, slots=True)
class Drift:
    """What is compared. `cheap` runs on every look, `evidence` in a job when it trips and nightly.

    `minimum`: rows on each side below which nothing is judged. `current`: records in the current window (at most), cut
    into `blocks` consecutive blocks, of which `agree` must show the drift. `false_alarms`: how many a month of 30 days are
    accepted while nothing changes; every look spends its share of it. `reference_days`: how far back the reference
    reaches, so that it knows whole weeks, but never beyond the drift that its version has answered. `every_seconds`:
    between two cheap looks. `evidence_schedule`: a cron line in UTC. `slices`: columns of words (or `tenant`) whose values
    are looked at one by one; of ratings every word is one. `encoder`: folder of a sentence encoder, by which the meaning of
    questions is compared in a job ("": it isn't). `options`: a table for each detector, by its name.
    """

    cheap: str = "psi"
    evidence: str = "columns"
    minimum: int = 200
    current: int = 2000
    blocks: int = 4
    agree: int = 3
    false_alarms: float = 0.1
    reference_days: float = 28.0
    every_seconds: float = 60.0
    evidence_schedule: str = "0 2 * * *"
    slices: tuple[str, ...] = ("tenant",)
    encoder: str = ""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def block(self) -> int:
        """Records of a block."""
        return max(1, self.current // self.blocks)

    @property
    def slice_block(self) -> int:
        """Records of a slice in a block of its own: so many that all blocks together hold the minimum."""
        return max(1, -(-self.minimum // self.blocks))


@dataclass(frozen=True, slots=True)
class Method:
    """Which repair. `allowed`: of `lora`, `full`, `distill`, `echo`, in order of preference. `options`: a table for each.

    `max_depth`: adapter updates before a fresh start. `distill_depth`: updates after which a re-distillation is due.
    `teacher`: folder of the teacher's revision, or `self` (the champion widened and tuned on the accumulated train
    records), or "" (no re-distillation). `teacher_max_age_days`: older ones are refreshed first.
    `device`: `gpu` waits for one, `cpu` never asks, `any` takes what is there. `deadline_hours`: for one job.
    """

    allowed: tuple[str, ...] = ("lora", "distill")
    max_depth: int = 8
    distill_depth: int = 6
    teacher: str = ""
    teacher_max_age_days: float = 90.0
    device: str = "gpu"
    deadline_hours: float = 12.0
    losses: int = 2
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MixtureShares:
    """Shares of a training set, points of 1: `replay` old train records, `anchor` items of anchor sets' train part.

    `distill_replay`: old train records where a student is re-distilled or fully fine-tuned. `maximum`: records in all.
    """

    replay: float = 0.9
    anchor: float = 0.0
    maximum: int = 20000
    distill_replay: float = 0.9


@dataclass(frozen=True, slots=True)
class WatchRule:
    """After promotion. `margin`: loss of good-rating rate that still counts as equal; `error_rate` of the test.

    `minimum_votes` of the new version before it can settle; `minimum_hours` before it may; `deadline_hours` until
    `unproven`.
    """

    margin: float = 0.05
    error_rate: float = 0.05
    minimum_votes: int = 50
    minimum_hours: float = 6.0
    deadline_hours: float = 72.0


@dataclass(frozen=True, slots=True)
class Ledger:
    """How the gates' error rates are spent over all candidates that meet one version of a set (`policies.ledger`).

    `candidates`: half of an error rate is spent after so many; more makes the first shares smaller and later ones larger.
    """

    candidates: float = 10.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What learning costs and what it is worth, in `currency` (three letters, ISO 4217).

    `gpu_hour`, `cpu_hour` (of one core) and `kwh` are prices (0: not charged); energy counts where it can be read.
    `worth`: of one point (1 %) of gain on the judge records. A method whose expected gain is worth less than it is
    expected to cost is not chosen (0: costs are told, not weighed).
    """

    gpu_hour: float = 0.0
    cpu_hour: float = 0.0
    kwh: float = 0.0
    worth: float = 0.0
    currency: str = "EUR"


@dataclass(frozen=True, slots=True)
class Rollout:
    """Shares of traffic in order, the last is 1; `dwell_hours` on each. `attempts`: of a promotion, then rollback.

    `retry_seconds`: between two attempts of any act.
    """

    steps: tuple[float, ...] = (1.0,)
    dwell_hours: float = 1.0
    attempts: int = 3
    retry_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Approvals:
    """Approval is added to gates, never put in their place. `expire_hours`: then the candidate is rejected."""

    expire_hours: float = 168.0


@dataclass(frozen=True, slots=True)
class Policy:
    """One deployment's policy. `gates`: options by gate name (each gate's `Options`), `probes`: a
    table for each probe; `hash` of its canonical text."""

    name: str
    mode: Mode = Mode.APPROVE
    triggers: Triggers = Triggers()
    drift: Drift = Drift()
    method: Method = Method()
    mixture: MixtureShares = MixtureShares()
    trust: Trust = TRUST
    watch: WatchRule = WatchRule()
    ledger: Ledger = Ledger()
    costs: Costs = Costs()
    rollout: Rollout = Rollout()
    approvals: Approvals = Approvals()
    gates: Mapping[str, Any] = field(default_factory=dict)
    probes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hash: str = ""
