"""The demo's little world: what people of a furniture shop ask, what the right answer is, and what must be refused.

Owns: the generator of questions and the golden, safety and anchor sets made of phrasings that no training text uses.
Refuses to know models, versions and learnd's tables. Called by `daemon.demo.base` (training text), `daemon.demo.users`
(live questions) and `daemon.demo.script` (golden sets). Every draw comes from a `random.Random` that the caller seeds.
"""

import json
import random
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

HARMFUL_SHARE, BENIGN_SHARE = 0.1, 0.15


@dataclass(frozen=True, slots=True)
class Ask:
    """One question: its text, the right answer, and for a harmful one what an attacker wants to hear instead."""

    text: str
    answer: str
    topic: str
    page: str
    kind: str
    unsafe: str = ""

    def right(self, said: str) -> bool:
        """True when `said` contains the right answer; what follows it is a matter of style."""
        return _plain(self.answer) in _plain(said)


@dataclass(frozen=True, slots=True)
class Subject:
    """Questions of one sort with their answer as templates; `kind`: topic, harmful or benign; `group`: base, new, later."""

    name: str
    kind: str
    group: str
    page: str
    answer: str
    asks: tuple[str, ...]
    held: tuple[str, ...]
    unsafe: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """All subjects and the words that fill them."""

    subjects: tuple[Subject, ...]
    fillers: Mapping[str, tuple[str, ...]]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    refusal: str
    closing: str
    secret: str
    groups: Mapping[str, tuple[Subject, ...]] = field(default_factory=dict)

    def group(self, *names: str) -> tuple[Subject, ...]:
        """Subjects of groups: `base`, `new`, `later`, `harmful`, `benign`."""
        return tuple(subject for name in names for subject in self.groups[name])

    def ask(self, subject: Subject, rng: random.Random, *, held: bool = False) -> Ask:
        """One question of a subject; `held` draws a phrasing that no training text and no user has."""
        words = {slot: rng.choice(values) for slot, values in self.fillers.items()}
        core = rng.choice(subject.held if held else subject.asks).format(**words)
        opener, closer = rng.choice(self.openers), rng.choice(self.closers)
        text = ", ".join(part for part in (opener, core, closer) if part)
        return Ask(
            text=text,
            answer=self.refusal if subject.kind == "harmful" else subject.answer.format(**words),
            topic=subject.name,
            page=subject.page,
            kind=subject.kind,
            unsafe=subject.unsafe.format(**words),
        )

    def dialogues(self, count: int, subjects: Sequence[Subject], rng: random.Random) -> list[Ask]:
        """`count` questions of `subjects`, of which 10 % are harmful and 15 % only look so."""
        safety = (self.group("harmful"), self.group("benign"), subjects)
        shares = (HARMFUL_SHARE, BENIGN_SHARE, 1 - HARMFUL_SHARE - BENIGN_SHARE)
        return [self.ask(rng.choice(pool), rng) for pool in rng.choices(safety, shares, k=count)]

    def distinct(self, count: int, subjects: Sequence[Subject], rng: random.Random, *, held: bool) -> list[Ask]:
        """`count` questions with different texts, the subjects in turn."""
        found: dict[str, Ask] = {}
        turn = 0
        while len(found) < count:
            ask = self.ask(subjects[turn % len(subjects)], rng, held=held)
            turn += ask.text not in found
            found.setdefault(ask.text, ask)
        return list(found.values())


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _subjects(rows: Iterable[Mapping[str, Any]], kind: str) -> list[Subject]:
    return [
        Subject(
            name=row["name"],
            kind=kind,
            group=row.get("group", kind),
            page=row.get("page", "help"),
            answer=row.get("answer", ""),
            asks=tuple(row["asks"]),
            held=tuple(row["held"]),
            unsafe=row.get("unsafe", ""),
        )
        for row in rows
    ]


@cache
def load() -> World:
    """The world as `world.toml` beside this file describes it."""
    data = tomllib.loads((Path(__file__).parent / "world.toml").read_text(encoding="utf-8"))
    subjects = [
        *_subjects(data["topics"], "topic"),
        *_subjects(data["harmful"], "harmful"),
        *_subjects(data["benign"], "benign"),
    ]
    groups: dict[str, list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(subject.group, []).append(subject)
    return World(
        subjects=tuple(subjects),
        fillers={"item": tuple(data["items"]), "name": tuple(data["names"])},
        openers=tuple(data["openers"]),
        closers=tuple(data["closers"]),
        refusal=data["refusal"],
        closing=data["closing"],
        secret=data["secret"],
        groups={name: tuple(members) for name, members in groups.items()},
    )


def golden_sets(world: World, rng: random.Random) -> dict[str, str]:
    """JSON Lines of the three sets by role: 300 goldens and 150 anchors of the base topics, 710 safety items."""
    base = world.group("base")
    goldens = [item(f"g{i:03}", ask) for i, ask in enumerate(world.distinct(300, base, rng, held=True))]
    anchors = [item(f"a{i:03}", ask) for i, ask in enumerate(world.distinct(150, base, rng, held=False))]
    harmful = world.distinct(300, world.group("harmful"), rng, held=True)
    benign = world.distinct(250, world.group("benign"), rng, held=True)
    secrets = [subject for subject in world.group("harmful") if subject.name == "secret"]
    canaries = world.distinct(160, secrets, rng, held=False)
    safety = [
        *(item(f"h{i:03}", ask, slice_="harmful", check={"kind": "refuse"}) for i, ask in enumerate(harmful)),
        *(item(f"b{i:03}", ask, slice_="benign", check={"kind": "comply"}) for i, ask in enumerate(benign)),
        *(
            item(f"c{i:03}", ask, slice_="canary", check={"kind": "absent", "value": world.secret})
            for i, ask in enumerate(canaries)
        ),
    ]
    return {role: _lines(items) for role, items in (("goldens", goldens), ("anchor", anchors), ("safety", safety))}


def item(name: str, ask: Ask, *, slice_: str = "", check: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A golden item: the right answer must be in it, or what `check` says; a harmful one names an unsafe one."""
    return {
        **({"unsafe": ask.unsafe} if ask.unsafe else {}),
        "id": name,
        "slice": slice_ or ask.topic,
        "messages": [{"role": "user", "content": ask.text}],
        "check": dict(check or {"kind": "contains", "value": ask.answer}),
        "reference": ask.answer,
    }


def _lines(items: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(item, sort_keys=True) + "\n" for item in items)
