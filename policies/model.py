"""The values that cross the border of the core: what was observed, what was measured, what was judged.

Owns: the words of the design as frozen dataclasses. Refuses to know where a value came from. Called by everyone.
Times are unix seconds (float), durations seconds unless the name says otherwise, rates and scores points of 1.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class Phase(StrEnum):
    """Where a slot stands. Only `policies.lifecycle` moves it."""

    GATHERING = "gathering"
    IDLE = "idle"
    TRAINING = "training"
    EVALUATING = "evaluating"
    APPROVING = "approving"
    PROMOTING = "promoting"
    RAMPING = "ramping"
    WATCHING = "watching"
    ROLLING_BACK = "rolling_back"


class Outcome(StrEnum):
    """What an act or the world answered."""

    READY = "ready"
    LACKING = "lacking"
    TRAINING_STARTED = "training_started"
    EVALUATION_STARTED = "evaluation_started"
    JUDGED = "judged"
    REJECTED = "rejected"
    ASKED = "asked"
    PROMOTED = "promoted"
    RAMPING = "ramping"
    UNFINISHED = "unfinished"
    MISSERVED = "misserved"
    RAMPED = "ramped"
    SETTLED = "settled"
    UNPROVEN = "unproven"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    FAILED = "failed"
    REFUSED = "refused"
    RETRY = "retry"


class Mode(StrEnum):
    """What a passing verdict leads to: a note, a question to a person, or a promotion."""

    SHADOW = "shadow"
    APPROVE = "approve"
    AUTO = "auto"


class Result(StrEnum):
    """The three answers of a gate."""

    PASS = "pass"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"

    @property
    def severity(self) -> int:
        """0 pass, 1 inconclusive, 2 fail: the worst of several is the maximum."""
        return {Result.PASS: 0, Result.INCONCLUSIVE: 1, Result.FAIL: 2}[self]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number about one version on one item: `value` in the probe's unit (a score lies in [0, 1])."""

    probe: str
    set: str
    item: str
    slice: str
    version: str
    value: float
    seed: int = 0
    environment: str = ""


@dataclass(frozen=True)
class Evidence:
    """All that was measured about one version, in no particular order."""

    version: str
    measurements: tuple[Measurement, ...] = ()

    @cached_property
    def by_probe(self) -> dict[str, list[Measurement]]:
        """The measurements by probe: every gate looks for its own among thousands."""
        found: dict[str, list[Measurement]] = {}
        for row in self.measurements:
            found.setdefault(row.probe, []).append(row)
        return found

    @cached_property
    def sets(self) -> frozenset[str]:
        """The sets of which anything was measured."""
        return frozenset(row.set for row in self.measurements if row.probe != "plan")


@dataclass(frozen=True, slots=True)
class Claim:
    """One checked statement of a verdict: estimate with [low, high] against `limit`, on `n` items (or records).

    `error_rate` is the two-sided error of the interval; `None` bounds mean that the claim has none (a hard limit).
    """

    name: str
    result: Result
    n: int
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    error_rate: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate's answer: the worst of its claims, and one sentence a person can read."""

    gate: str
    gate_version: int
    result: Result
    reason: str
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class DriftColumn:
    """One column's comparison. `statistic` names the number (psi, chi2_p, rate_difference, …) in `value`.

    `since`: the sequence number with which the drift begins, 0 where none does. `slice`: whose column it is
    ("tenant=acme", and then `column` is "topic[tenant=acme]"), "" for all records. `typical`: sequence numbers of records
    that are typical of what is new, where the detector knows them.
    """

    column: str
    statistic: str
    value: float
    threshold: float
    drifted: bool
    reference_n: int
    current_n: int
    note: str = ""
    since: int = 0
    slice: str = ""
    typical: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Questions:
    """How many different questions a window asked, and the share of them (`known`) that its reference had too.

    None where it is unknown. `error`: the standard error of `distinct`, 0 where they were counted. `low` and `high`: the
    interval of `known` at 95 %, which is one point where nothing was estimated.
    """

    distinct: int | None = None
    error: float = 0.0
    known: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What a detector saw between two windows; a window is (first, last] of ingest sequence numbers.

    `kind` is `inputs`, `outcomes`, `both`, or empty while nothing drifted. `judged` is false below the minimum count.
    `columns` are those of all records, and of a slice those that drifted; `slices` names the slices that were judged.
    `questions` are told, never judged; None where the detector doesn't tell.
    """

    detector: str
    judged: bool
    drifted: bool
    kind: str
    reason: str
    columns: tuple[DriftColumn, ...] = ()
    reference: tuple[int, int] = (0, 0)
    current: tuple[int, int] = (0, 0)
    at: float = 0.0
    files: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    questions: Questions | None = None


@dataclass(frozen=True, slots=True)
class SignalCounts:
    """Usable records of a window by what they teach; `judge_references` are judge-fold records with a reference."""

    corrections: int = 0
    pairs: int = 0
    positives: int = 0
    negatives: int = 0
    judge_references: int = 0

    @property
    def total(self) -> int:
        """Records of the `train` fold that a method could learn from."""
        return self.corrections + self.pairs + self.positives + self.negatives


@dataclass(frozen=True, slots=True)
class SetView:
    """An accepted golden set: `role` is `goldens`, `safety` or `anchor`; `discordance` was last seen (None: never).

    `slices`: (name, items) pairs, empty where nobody counted them.
    """

    name: str
    role: str
    items: int
    version: str
    discordance: float | None = None
    slices: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version as the core needs it. `depth` counts adapter updates since the last fresh start or merge."""

    name: str
    kind: str
    base: str
    method: str
    depth: int = 0
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as `jobs.find` sees it. `state`: running, done, failed, absent. `result` never holds records."""

    key: str
    kind: str
    state: str
    started: float = 0.0
    deadline: float = 0.0
    progress: str = ""
    error: str = ""
    error_kind: str = ""
    result: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommandView:
    """A person's open wish. `verb`: train, approve, reject, promote, rollback, pause, resume."""

    id: int
    verb: str
    actor: str
    reason: str
    version: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class CycleView:
    """One attempt of a slot. `step` is `candidate`, or `teacher` while a re-distillation refreshes its teacher.

    `window` is the (first, last] ingest sequence that asked for the update. `losses` counts jobs that vanished.
    """

    id: int
    method: str
    step: str
    window: tuple[int, int]
    started: float
    policy_hash: str
    seed: int
    trigger: str
    candidate: str = ""
    teacher: str = ""
    losses: int = 0
    asked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Votes:
    """Ratings of one version, the latest of each user: `good` of `n` (neutral ones left out)."""

    version: str
    n: int = 0
    good: int = 0


@dataclass(frozen=True, slots=True)
class WatchView:
    """What is known since a promotion: `before` is concurrent traffic (`controlled`) or the outcomes baseline."""

    promoted_at: float
    now: Votes
    before: Votes
    controlled: bool = False


@dataclass(frozen=True, slots=True)
class TeacherView:
    """The teacher that the policy names and the one that the champion learned from ("" where there is none)."""

    configured: str = ""
    used: str = ""
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class Past:
    """What already happened in this slot. `tries` counts candidates bought by the current window."""

    last_ended: float = 0.0
    last_outcome: str = ""
    failures: int = 0
    tries: int = 0
    window_end: int = 0
    spent_seconds: float = 0.0
    last_promoted: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job took, or several: wall, CPU and GPU seconds, joules, tokens trained on. None: nobody could measure it."""

    seconds: float = 0.0
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    joules: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Experience:
    """What the last `attempts` of a method took and brought on average: `gain` on the judge records, points of 1.

    An attempt whose candidate was turned down brought nothing.
    """

    method: str
    attempts: int
    usage: Usage
    gain: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """Transient failures of the act that `decide` asked for last in this phase."""

    action: str = ""
    count: int = 0
    last: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One slot at one moment: all that `decide` may know, rebuilt from the database every tick.

    `counts` are of (past.window_end, head], `judge_total` of all time. `attempt.action` is an action's class name.
    `experience`: of methods that were tried in this slot, looked up only where one may be chosen by its cost.
    `rolling_back_to` names where an unfinished rollback is heading ("" while there is none); `ramp_since` is when the
    traffic got its present share.
    """

    now: float
    deployment: str
    tenant: str
    phase: Phase
    phase_since: float
    head: int
    champion: VersionView | None = None
    predecessor: str = ""
    rolling_back_to: str = ""
    anchor: str = ""
    paused_by: str = ""
    consent_set: bool = False
    sets: tuple[SetView, ...] = ()
    counts: SignalCounts = SignalCounts()
    judge_total: int = 0
    drift: DriftReport | None = None
    evidence_drift: DriftReport | None = None
    schedule_due: bool = False
    teacher: TeacherView = TeacherView()
    past: Past = Past()
    cycle: CycleView | None = None
    candidate: VersionView | None = None
    job: JobView | None = None
    verdicts: tuple[Verdict, ...] = ()
    verdicts_complete: bool = False
    judged_under: str = ""
    commands: tuple[CommandView, ...] = ()
    watch: WatchView | None = None
    ramp_step: int = 0
    ramp_since: float = 0.0
    target_splits: bool = False
    attempt: Attempt = Attempt()
    granted: bool = True
    not_granted: str = ""
    seed: int = 0
    experience: tuple[Experience, ...] = ()
