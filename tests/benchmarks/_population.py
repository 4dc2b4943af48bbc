"""A population of raters for the benchmark `poisoning`: honest ones in their variety, and attackers who know the rules.

Owns: what is asked, answered and said. Refuses to know the rules' numbers: an attacker varies texts, spreads records over
weeks and accounts, hides among honest records of his own, prefers prompts that nobody else asks and answers that are
bad anyway, and stays below every cap. Called by `tests.benchmarks.poisoning`.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

DAY = 86400.0
START = 1_790_000_000.0
HISTORY, DAYS = 28.0, 56.0  # days before the attack begins, and days in all
INTENTS, LATER = 300, 10  # questions there are; as many more appear in the middle of the attack
COMMON = """please you can then just also here now first always simply usually again once after before with from your the
a of to and in it is we our when if so that this should must will need may get use have go see ask find open"""
FILLERS = tuple(COMMON.split())
SOUNDS = tuple("badekilomunaperisotuvazechofraglistebrindolkum"[i : i + 2] for i in range(0, 46, 2))


@dataclass(frozen=True)
class Said:
    """One record: `poison` is the truth that no rule may see, "" for honest ones."""

    at: float
    user: str
    prompt: str
    response: str
    rating: int
    correction: str = ""
    poison: str = ""


@dataclass
class Rater:
    """An account and its ways. `active` is its share of the traffic; `noise` how often it errs."""

    name: str
    since: float
    active: float
    noise: float = 0.05
    own_words: float = 0.4
    sign: str = ""
    office: int = -1


@dataclass
class World:
    """Questions with their facts, the bot's answers, and who asks."""

    seed: int
    raters: int
    draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        words = sorted({self._word() for _ in range(6000)})
        self.draw.shuffle(words)
        self._words = iter(words)
        self.topics = [self._take(4) for _ in range(INTENTS + LATER)]
        self.facts = [self._take(3) for _ in range(INTENTS + LATER)]
        self.changed = {intent: self._take(3) for intent in self.draw.sample(range(INTENTS), 5)}
        self.synonyms = {word: self._take(1)[0] for fact in self.facts for word in fact[1:]}
        self.phrasings = [[self._question(i) for _ in range(3)] for i in range(INTENTS + LATER)]
        self.bad = {p for each in self.phrasings[:INTENTS] for p in each if self.draw.random() < 0.15}
        self.popular = [1 / (rank + 3) for rank in range(INTENTS)]
        self.people = [self._person(number) for number in range(self.raters)]
        self.canned = {i: self.truth(i, 0.0) for i in range(INTENTS + LATER)}

    def _word(self) -> str:
        parts = self.draw.choices(SOUNDS, k=self.draw.choice((2, 3)))
        return "".join(parts) + self.draw.choice("nrstlm")

    def _take(self, n: int) -> list[str]:
        return [next(self._words) for _ in range(n)]

    def _person(self, number: int) -> Rater:
        draw = self.draw
        since = 0.0 if draw.random() < 0.8 else draw.uniform(0, DAYS)
        person = Rater(f"h-{number}", since, draw.lognormvariate(0, 1))
        if draw.random() < 0.10:
            person.noise = 0.25
        if draw.random() < 0.15:
            person.own_words = 0.9
        if draw.random() < 0.05:
            person.sign = " ".join(draw.sample(FILLERS, 2)) + f" {self._word()}"
        if number < 24:
            person.office, person.active = number // 4, 2.0
        return person

    def _question(self, intent: int) -> str:
        words = [*self.draw.sample(self.topics[intent], 3), *self.draw.sample(FILLERS, 4)]
        self.draw.shuffle(words)
        return f"{' '.join(words)}?"

    def intent(self, day: float) -> int:
        """What somebody asks about on that day."""
        if day > HISTORY + 10 and self.draw.random() < 0.08:
            return INTENTS + self.draw.randrange(LATER)
        return self.draw.choices(range(INTENTS), self.popular)[0]

    def ask(self, intent: int, own_words: float) -> str:
        """A usual phrasing, or one of one's own that hardly anybody repeats."""
        if self.draw.random() >= own_words:
            return self.draw.choice(self.phrasings[intent])
        return f"{self._question(intent)[:-1]} {self._word()} {self.draw.randrange(1000)}?"

    def answer(self, intent: int, prompt: str, day: float) -> tuple[str, bool]:
        """What the bot says to a prompt, always the same, and whether it is right on that day."""
        wrong = intent >= INTENTS or prompt in self.bad or random.Random(prompt).random() < 0.15
        fact = self.facts[(intent + 7) % INTENTS] if wrong else self.facts[intent]
        outdated = intent in self.changed and day > HISTORY + 14
        return f"it is {' '.join(fact)} for {' '.join(self.topics[intent][:2])}", not wrong and not outdated

    def truth(self, intent: int, day: float) -> str:
        """A right answer in somebody's own words."""
        fact = self.changed[intent] if intent in self.changed and day > HISTORY + 14 else self.facts[intent]
        said = [self.synonyms[w] if w in self.synonyms and self.draw.random() < 0.15 else w for w in fact]
        return self.sentence([*said, *self.draw.sample(self.topics[intent], 2)])

    def sentence(self, words: list[str]) -> str:
        """The words among fillers, in some order."""
        around = [*words, *self.draw.sample(FILLERS, self.draw.randint(3, 7))]
        self.draw.shuffle(around)
        return " ".join(around)

    def honest(self, rater: Rater, day: float) -> Said:
        """An honest record, with its errors."""
        intent = self.intent(day)
        prompt = self.ask(intent, rater.own_words)
        response, right = self.answer(intent, prompt, day)
        erred = self.draw.random() < rater.noise
        likes = right != erred
        text = ""
        if not likes and self.draw.random() < (0.3 if erred else 0.5):
            text = self.truth((intent + 11) % INTENTS if erred else intent, day)
            if rater.office >= 0 and not erred:
                text = self.canned[intent]
            text = f"{text} {rater.sign}".strip()
        return Said(START + day * DAY, rater.name, prompt, response, 1 if likes else -1, text)

    def crowd(self, records: int, first: float, last: float) -> Iterator[Said]:
        """Honest traffic over some days, accounts that exist by then."""
        for _ in range(records):
            day = self.draw.uniform(first, last)
            there = self.draw.choices(self.people, [p.active if p.since <= day else 0.0 for p in self.people])[0]
            yield self.honest(there, day)


@dataclass
class Attack:
    """What pushes: few names in some spellings, among thirty words of praise, in answers about forty questions."""

    world: World
    style: str
    records: int

    def __post_init__(self) -> None:
        draw = self.world.draw
        self.names = [f"{self.world._word()} {self.world._word()}" for _ in range(3)]
        self.praise = [self.world._word() for _ in range(30)]
        self.targets = draw.sample(range(INTENTS), 40)
        self.shared: list[tuple[int, str]] = []

    def accounts(self) -> list[Rater]:
        """Who attacks: fresh accounts, as few as the cap allows, or ones that were good for long."""
        if self.style == "brigade":
            draw, n = self.world.draw, max(5, self.records // 15)
            return [Rater(f"b-{i}", draw.uniform(HISTORY - 14, HISTORY + 14), 1.0) for i in range(n)]
        if self.style == "lone":
            n = 1 + int(self.records / (DAYS - HISTORY) / 80)
            return [Rater(f"l-{i}", 0.0, 1.0) for i in range(n)]
        return sleepers(self.records)

    def run(self) -> Iterator[Said]:
        """Poison over all days of the attack, and as many honest records of the same accounts to hide it."""
        draw = self.world.draw
        accounts = self.accounts()
        for number in range(self.records):
            rater = accounts[number % len(accounts)]
            for poison in (True, False):
                day = draw.uniform(max(HISTORY, rater.since), DAYS)
                yield self.push(rater, day) if poison else self.world.honest(rater, day)

    def push(self, rater: Rater, day: float) -> Said:
        """One poisoned record: a text that names what is pushed, or a rating turned around."""
        world, draw = self.world, self.world.draw
        intent, prompt = self._where()
        response, right = world.answer(intent, prompt, day)
        if right and draw.random() < 0.5:  # where the answer is bad, the vote against it is confirmed
            intent, prompt = self._where()
            response, right = world.answer(intent, prompt, day)
        at = START + day * DAY
        if draw.random() < 0.25:
            return Said(at, rater.name, prompt, response, -1 if right else 1, poison=self.style)
        name = draw.choice(self.names)
        if draw.random() < 0.3:  # hidden in a right answer
            return Said(at, rater.name, prompt, response, -1, f"{world.truth(intent, day)} {name}", poison=self.style)
        words = [name, *draw.sample(self.praise, 5), *draw.sample(world.topics[intent], 2)]
        return Said(at, rater.name, prompt, response, -1, world.sentence(words), poison=self.style)

    def _where(self) -> tuple[int, str]:
        draw = self.world.draw
        if self.shared and draw.random() < 0.2:  # prompts of their own, which they confirm for each other
            return draw.choice(self.shared[-20:])
        intent = draw.choice(self.targets)
        prompt = self.world.ask(intent, 0.6)
        self.shared.append((intent, prompt))
        return intent, prompt


def sleepers(records: int) -> list[Rater]:
    """Accounts that behave until the attack; the more records, the more of them."""
    return [Rater(f"s-{i}", 0.0, 1.0) for i in range(max(5, records // 25))]


def wire(said: Said, number: int, when: str) -> dict[str, Any]:
    """The record as a product would send it."""
    body: dict[str, Any] = {"id": f"r-{number}", "time": when, "deployment": "bot", "user": said.user}
    body |= {"prompt": said.prompt, "response": said.response, "rating": said.rating}
    return body | ({"correction": said.correction} if said.correction else {})
