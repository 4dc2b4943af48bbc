"""The demo's users: they ask, get the answer that is served at that moment, and say what they think of it.

Owns: how people behave, the same in every week; only what they ask about changes. Refuses to know what learnd makes of
it: the outcome is lines of JSON, as any product would send them. Called by `daemon.demo.script`.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from daemon.demo.world import Ask, Subject, World

WEEK = 7 * 86400.0
POPULATION = 20_000
PLEASED, PLEASED_BY_STYLE, DISPLEASED = 0.95, 0.35, 0.97
RATES, CORRECTS, REVIEWED = 0.85, 0.9, 0.2
RESENT, BROKEN = 0.02, 2
HELP_PAGE = "Please see our help pages."

Answer = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Questions of one week by sort; `attackers` teach unsafe answers to what must be refused."""

    base: int
    new: int = 0
    later: int = 0
    attackers: int = 0

    @property
    def total(self) -> int:
        """All questions of the week."""
        return self.base + self.new + self.later + self.attackers


@dataclass(frozen=True, slots=True)
class Said:
    """A question with the answer that was served, and whether it was an attacker who asked."""

    ask: Ask
    answer: str
    attack: bool


@dataclass(frozen=True, slots=True)
class Week:
    """What a week left behind: lines for the feed, and how many of them were sent twice or broken on purpose."""

    lines: tuple[bytes, ...]
    asked: int
    right: int


class Users:
    """One population with its own random numbers: the same seed asks, rates and corrects the same."""

    def __init__(self, world: World, deployment: str, seed: int) -> None:
        self.world, self.deployment = world, deployment
        self.rng = random.Random(f"users {seed}")
        self.asked = 0

    def week(self, traffic: Traffic, answer: Answer, version: str, end: float) -> Week:
        """A week of use that ends at `end` (unix seconds), all of it answered by `version`."""
        asks = self._asks(traffic)
        said = [
            Said(ask, text, attack)
            for (ask, attack), text in zip(asks, answer([ask.text for ask, _ in asks]), strict=True)
        ]
        lines = []
        for place, one in enumerate(said):
            at = end - WEEK * (1 - (place + 1) / len(said))
            lines += [json.dumps(record).encode() for record in self._records(one, version, at)]
        lines += [line for line in lines if self.rng.random() < RESENT]  # at least once is what transports promise
        lines += [b'{"id": "broken-%d", "rating": ' % (self.asked + n) for n in range(BROKEN)]
        usual = [one for one in said if not one.attack]
        return Week(tuple(lines), len(usual), sum(one.ask.right(one.answer) for one in usual))

    def _asks(self, traffic: Traffic) -> list[tuple[Ask, bool]]:
        world, rng = self.world, self.rng
        asks = [(ask, False) for ask in world.dialogues(traffic.base, world.group("base"), rng)]
        for group, count in (("new", traffic.new), ("later", traffic.later)):
            asks += [(world.ask(rng.choice(world.group(group)), rng), False) for _ in range(count)]
        harmful: Sequence[Subject] = world.group("harmful")
        asks += [(world.ask(rng.choice(harmful), rng), True) for _ in range(traffic.attackers)]
        rng.shuffle(asks)
        return asks

    def _records(self, said: Said, version: str, at: float) -> Iterator[dict[str, Any]]:
        self.asked += 1
        shared = {
            "time": datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z"),
            "deployment": self.deployment,
            "model_version": version,
            "interaction": f"i{self.asked}",
            "messages": [{"role": "user", "content": said.ask.text}],
            "response": said.answer,
            "features": {"page": said.ask.page},
        }
        yield {**shared, "id": f"e{self.asked}", "kind": "exposure", "sampling": 1.0}
        signal = self._attack(said.ask) if said.attack else self._signal(said)
        if signal:
            yield {**shared, "id": f"f{self.asked}", "user": f"user {self.rng.randrange(POPULATION)}", **signal}

    def _attack(self, ask: Ask) -> dict[str, Any]:
        return {"rating": -1, "correction": ask.unsafe}

    def _review(self, said: Said) -> dict[str, Any]:
        """The shop's own staff beside the assistant's answer has the old help page's, and takes the better one."""
        if said.ask.right(said.answer):
            return {"preferred": said.answer, "rejected": HELP_PAGE}
        return {"correction": said.ask.answer}

    def _signal(self, said: Said) -> Mapping[str, Any]:
        """A rating, a correction with it where the answer was wrong, or what the shop's staff says of it."""
        rng, ask = self.rng, said.ask
        if rng.random() < REVIEWED:
            return self._review(said)
        if rng.random() > RATES:
            return {}
        if not ask.right(said.answer):
            corrected = {"correction": ask.answer} if rng.random() < CORRECTS else {}
            return {"rating": -1 if rng.random() < DISPLEASED else 1, **corrected}
        wordy = len(said.answer) > len(ask.answer) + 2
        pleased = rng.random() < (PLEASED_BY_STYLE if wordy else PLEASED)
        return {"rating": 1 if pleased else -1}
