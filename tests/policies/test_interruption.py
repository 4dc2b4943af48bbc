"""A small world that is killed before and after every intent, act and outcome, and always ends the same."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from policies.actions import (
    Action,
    AskApproval,
    Cancel,
    Evaluate,
    Fail,
    Promote,
    Ramp,
    Reject,
    Rollback,
    Settle,
    Train,
    Wait,
    Watch,
)
from policies.decide import decide
from policies.lifecycle import advance
from policies.model import (
    Attempt,
    CycleView,
    JobView,
    Mode,
    Outcome,
    Past,
    Phase,
    Result,
    SignalCounts,
    Snapshot,
    TeacherView,
    Votes,
    WatchView,
)
from policies.policy import Method, Policy, Rollout, WatchRule
from policies.triggers import after_cycle
from tests.policies.worlds import CHAMPION, HOUR, POLICY, command, slot, verdicts

TICK = 600.0
AUTO = replace(POLICY, mode=Mode.AUTO, watch=WatchRule(margin=0.1, minimum_hours=0.5))
Answer = tuple[Outcome, dict[str, Any]]


@dataclass
class World:
    """Rows that survive a kill (`row`), and what is outside: jobs and the target, whose effects are idempotent by key."""

    policy: Policy
    row: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, float] = field(default_factory=dict)
    started: Counter[str] = field(default_factory=Counter)
    serving: str = CHAMPION.name
    clock: float = 1000 * HOUR
    refuse: tuple[str, ...] = ()
    good_share: float = 0.95
    away: int = 0

    def __post_init__(self) -> None:
        self.row = {
            "phase": Phase.IDLE,
            "since": self.clock,
            "champion": CHAMPION.name,
            "predecessor": "bot@before",
            "open": None,
            "cycle": None,
            "job": "",
            "verdicts": (),
            "past": Past(),
            "attempt": Attempt(),
            "rolling_back_to": "",
            "commands": (),
            "promoted": 0.0,
            "ended": [],
            "step": 0,
            **self.row,
        }

    def observe(self) -> Snapshot:
        row = self.row
        fresh = row["past"].window_end == 0
        watch = WatchView(row["promoted"], self.votes(), Votes(row["predecessor"], 1000, 900))
        return slot(
            row["phase"],
            now=self.clock,
            phase_since=row["since"],
            champion=replace(CHAMPION, name=row["champion"]),
            predecessor=row["predecessor"],
            rolling_back_to=row["rolling_back_to"],
            counts=SignalCounts(corrections=1200, judge_references=60) if fresh else SignalCounts(),
            past=row["past"],
            cycle=row["cycle"],
            job=self.found(row["job"]),
            verdicts=row["verdicts"],
            verdicts_complete=bool(row["verdicts"]),
            judged_under=self.policy.hash,
            commands=row["commands"],
            watch=watch if row["phase"] in {Phase.WATCHING, Phase.RAMPING} else None,
            ramp_step=row["step"],
            target_splits=True,
            attempt=row["attempt"],
            teacher=TeacherView(self.policy.method.teacher, self.policy.method.teacher if not fresh else ""),
        )

    def votes(self) -> Votes:
        n = int(max(0.0, self.clock - self.row["promoted"]) / TICK) * 100
        return Votes(self.row["champion"], n, round(self.good_share * n))

    def found(self, key: str) -> JobView | None:
        if not key:
            return None
        if key not in self.jobs:
            return JobView(key, key.partition("-")[0], "absent")
        state = "done" if self.clock >= self.jobs[key] else "running"
        return JobView(key, key.partition("-")[0], state, deadline=self.clock + HOUR)

    def start(self, key: str) -> str:
        if key not in self.jobs:
            self.started[key] += 1
            self.jobs[key] = self.clock + 2 * TICK
        return key

    def tick(self, killed: str = "") -> None:
        """One pass of the loop; `killed` is where the process dies in it."""
        self.clock += TICK
        if killed == "before intent":
            return
        if self.row["open"] is None:
            action = decide(self.observe(), self.policy)
            if isinstance(action, Wait | Watch):
                if isinstance(action, Wait) and action.outcome is not None:
                    self.conclude(action.outcome, {})
                return
            self.intend(action)
        if killed == "after intent":
            return
        outcome, changes = self.act(self.row["open"])
        if killed == "after act":
            return
        self.conclude(outcome, changes)

    def intend(self, action: Action) -> None:
        """One transaction: the open decision, and the cycle that it begins."""
        changes: dict[str, Any] = {"open": action}
        if isinstance(action, Train) and self.row["cycle"] is None:
            name = f"c{len(self.row['ended'])}"
            changes["cycle"] = CycleView(
                1, action.method, action.step, action.window, self.clock, self.policy.hash, action.seed, name
            )
        self.row = {**self.row, **changes}

    def conclude(self, outcome: Outcome, changes: dict[str, Any]) -> None:
        """One transaction: the outcome, the phase, the rows."""
        before = self.row["phase"]
        after = advance(before, outcome)
        since = {"since": self.clock} if after is not before else {}
        self.row = {**self.row, "attempt": Attempt(), **changes, **since, "phase": after, "open": None}

    def end(self, kind: str) -> dict[str, Any]:
        window_end, tries = after_cycle(self.observe(), self.policy, kind)
        past = replace(self.row["past"], window_end=window_end, tries=tries, last_ended=self.clock)
        return {"cycle": None, "job": "", "verdicts": (), "past": past, "ended": [*self.row["ended"], kind]}

    def act(self, action: Action) -> Answer:
        simple: dict[type, Callable[[], Answer]] = {
            Evaluate: self.evaluate,
            AskApproval: lambda: (Outcome.ASKED, {"cycle": replace(self.row["cycle"], asked_at=self.clock)}),
            Settle: lambda: (Outcome.SETTLED, self.end("settled")),
            Fail: lambda: (Outcome.FAILED, self.end("failed")),
        }
        if isinstance(action, Train):
            return self.train(action)
        if isinstance(action, Reject):
            return Outcome.REJECTED, self.end(action.kind)
        if isinstance(action, Promote):
            return self.promote(action)
        if isinstance(action, Ramp):
            done = action.share >= 1
            return (Outcome.RAMPED if done else Outcome.RAMPING), {"step": action.step}
        if isinstance(action, Rollback):
            return self.rollback(action)
        if isinstance(action, Cancel):
            self.jobs.pop(self.row["job"], None)
            return Outcome.CANCELLED, self.end("cancelled")
        return simple[type(action)]()

    def train(self, action: Train) -> Answer:
        cycle = self.row["cycle"]
        lost = int(self.row["phase"] is Phase.TRAINING)
        key = self.start(f"train-{len(self.row['ended'])}-{action.step}")
        name = "" if action.step == "teacher" else f"bot@{key}"
        kept = replace(cycle, step=action.step, candidate=name, losses=cycle.losses + lost)
        return Outcome.TRAINING_STARTED, {"cycle": kept, "job": key, "verdicts": ()}

    def evaluate(self) -> Answer:
        found, cycle = self.observe().job, self.row["cycle"]
        if found is None or found.kind == "train":
            key = self.start(self.row["job"].replace("train", "evaluate"))
            return Outcome.EVALUATION_STARTED, {"job": key, "cycle": replace(cycle, losses=0)}
        if found.state == "done":
            return Outcome.JUDGED, {"verdicts": verdicts(**dict.fromkeys(self.refuse, Result.FAIL))}
        self.start(found.key)
        return Outcome.EVALUATION_STARTED, {"cycle": replace(cycle, losses=cycle.losses + 1)}

    def promote(self, action: Promote) -> Answer:
        key = f"prove-{action.version}"
        proof = self.found(key)
        assert proof is not None
        if proof.state == "done":
            moved = replace(self.row["past"], window_end=self.row["cycle"].window[1], last_promoted=self.clock)
            installed = {"predecessor": self.row["champion"], "champion": action.version, "promoted": self.clock}
            outcome = Outcome.PROMOTED if action.share >= 1 else Outcome.RAMPING
            return outcome, {**installed, "past": moved, "job": "", "step": 0}
        self.serving = action.version
        return Outcome.UNFINISHED, {"job": self.start(key)}

    def rollback(self, action: Rollback) -> Answer:
        if self.away > 0:
            self.away -= 1
            tried = Attempt("Rollback", self.row["attempt"].count + 1, self.clock, "away")
            return Outcome.UNFINISHED, {"attempt": tried, "rolling_back_to": action.to}
        self.serving = action.to
        left = [c for c in self.row["commands"] if c.id != action.command]
        cycle = self.end("rolled_back") if self.row["cycle"] is not None else {}
        back = {"champion": action.to, "predecessor": "", "rolling_back_to": "", "commands": tuple(left)}
        return Outcome.ROLLED_BACK, {**cycle, **back}

    def ending(self) -> tuple[Any, ...]:
        """What must be the same whatever was killed."""
        row = self.row
        return (row["phase"], row["champion"], row["ended"], row["past"].window_end, self.serving, row["commands"])


DISTILL = replace(AUTO, method=Method(teacher="teachers/2", device="any"))
RAMPED = replace(AUTO, rollout=Rollout(steps=(0.1, 0.5, 1.0), dwell_hours=0.2))
WORLDS: dict[str, tuple[Callable[[], World], int]] = {
    "settled": (lambda: World(AUTO), 22),
    "ramped": (lambda: World(RAMPED), 28),
    "refused": (lambda: World(AUTO, refuse=("safety", "data"), row={"past": Past(tries=2)}), 12),
    "distilled": (lambda: World(DISTILL), 30),
    "regressed": (lambda: World(AUTO, good_share=0.5, away=2), 26),
    "shadow": (lambda: World(replace(AUTO, mode=Mode.SHADOW)), 12),
    "asked back": (lambda: World(AUTO, row={"commands": (command("rollback"),), "past": Past(window_end=1)}), 8),
}
EXPECTED = {
    "settled": ["settled"],
    "ramped": ["settled"],
    "refused": ["refused"],
    "distilled": ["settled"],
    "regressed": ["rolled_back"],
    "shadow": ["shadow"],
    "asked back": [],
}
PLACES = ("before intent", "after intent", "after act")


def lived(name: str, kills: dict[int, str], lost: bool = False) -> World:
    make, ticks = WORLDS[name]
    world = make()
    for n in range(ticks + 4 * len(kills)):
        world.tick(kills.get(n, ""))
        if lost and n in kills:
            world.jobs = {key: done for key, done in world.jobs.items() if done <= world.clock}
    return world


@pytest.mark.parametrize("name", WORLDS)
def test_the_story_ends_as_it_should(name: str) -> None:
    world = lived(name, {})
    assert world.row["ended"] == EXPECTED[name]
    assert world.row["phase"] is Phase.IDLE
    assert world.serving == world.row["champion"]
    assert set(world.started.values()) <= {1}
    assert ("train-0-teacher" in world.started) == (name == "distilled")


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("place", PLACES)
def test_killed_at_any_place_it_converges_to_the_same_end(name: str, place: str) -> None:
    end = lived(name, {}).ending()
    for n in range(WORLDS[name][1]):
        world = lived(name, {n: place, n + 1: "after act"} if n % 2 else {n: place})
        assert world.ending() == end, (n, place)
        assert set(world.started.values()) <= {1}, "no job is started twice"


@pytest.mark.parametrize("name", WORLDS)
def test_a_job_that_dies_with_the_machine_is_started_again_to_the_same_end(name: str) -> None:
    end = lived(name, {}).ending()
    for n in range(WORLDS[name][1]):
        assert lived(name, {n: "after act"}, lost=True).ending() == end, n
