"""Who agrees with whom: every record compared with what others said of the same, and how far each rater is believed.

Owns: what a comparison is, and the scores that follow from it. Refuses to hold anything (`policies.trust`). Called by
`policies.trust` and `policies.campaigns`.

A rating is compared with others' votes on the same answer to the same prompt. A text is compared with others' texts for
the same prompt; votes can speak against it, but not for it, since that an answer is bad doesn't make another one good.
Nobody is confirmed by one other rater without end: accounts that praise each other would need to be many.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log

from policies.raters import DAY, Options, RaterRecord

GOLDEN = "\0golden"  # an accepted golden speaks like a rater, as loud as five, and never too often
GOLDEN_WEIGHT = 5.0
VOICES = 60  # before and after a record that are asked, at most
ROUNDS = 3  # scores follow from comparisons that follow from scores: it settles at once
EACH = 3  # times that one rater can confirm or contradict another
MARGIN = 0.5  # weight by which one side must outweigh the other
LIKED = 8  # agreements before anybody is trusted


@dataclass(frozen=True, slots=True)
class Compared:
    """Who speaks for a record and who against it, each once."""

    pro: tuple[str, ...] = ()
    con: tuple[str, ...] = ()


Voices = Sequence[Compared] | Mapping[int, Compared]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far each rater is believed (0 to 1), who is trusted, and (agreed, contradicted) of each."""

    weights: Mapping[str, float]
    trusted: frozenset[str]
    scores: Mapping[str, tuple[int, int]]

    def sides(self, compared: Compared) -> tuple[float, float]:
        """Weight for and against; where trusted raters (or a golden) have spoken, nobody else counts."""
        pro, con = self.loud(compared.pro), self.loud(compared.con)
        if pro or con:
            return self._sum(pro), self._sum(con)
        return self._sum(compared.pro), self._sum(compared.con)

    def loud(self, voices: Iterable[str]) -> list[str]:
        """Those of the voices that are trusted."""
        return [voice for voice in voices if voice in self.trusted]

    def weight(self, voice: str) -> float:
        """One voice's weight."""
        return self.weights.get(voice, 0.0)

    def _sum(self, voices: Iterable[str]) -> float:
        return sum(self.weight(voice) for voice in voices)


def weight(agreed: int, contradicted: int) -> float:
    """How far a rater is believed, in (0, 1): the mean of Beta(4 + agreed, 1 + contradicted); a stranger has 0.8."""
    return (4 + max(0, agreed)) / (5 + max(0, agreed) + max(0, contradicted))


def novice(age: float, options: Options) -> float:
    """What an account's age in days takes off its weight: a half at first, nothing once it is no longer new."""
    return 1.0 if options.new_days <= 0 else 0.5 + 0.5 * min(1.0, age / options.new_days)


def compare(records: Sequence[RaterRecord], options: Options, silent: Container[int] = ()) -> list[Compared]:
    """What others said, for every record in order (they must be in order of time).

    `silent`: places of records that are compared, but speak for and against none (those of quarantine).
    """
    votes: dict[tuple[str, str], _Line] = defaultdict(_Line)
    texts: dict[str, _Line] = defaultdict(_Line)
    worth = telling(records)
    for number, record in enumerate(records):
        if number in silent:
            continue
        if record.prompt and record.answer and record.user and record.vote:
            votes[record.prompt, record.answer].add(number, record.at)
        if record.prompt and record.words and record.user:
            texts[record.prompt].add(number, record.at)
    found = []
    for record in records:
        mine: dict[bool, list[str]] = {True: [], False: []}
        if record.golden:
            mine[record.golden > 0].append(GOLDEN)
        for user, agrees in _said(record, records, (votes, texts), worth, options).items():
            mine[agrees].append(user)
        found.append(Compared(tuple(mine[True]), tuple(mine[False])))
    return found


def standing(records: Sequence[RaterRecord], compared: Sequence[Compared], options: Options) -> Standing:
    """The raters' scores and weights; one coin a rater (Dawid & Skene 1979), with capped voices and a prior by age."""
    of: dict[str, list[int]] = defaultdict(list)
    age: dict[str, float] = {}
    for number, record in enumerate(records):
        if record.user:
            of[record.user].append(number)
            age[record.user] = record.age()
    fresh = {user: novice(age[user], options) for user in of}
    now = Standing({user: weight(0, 0) * fresh[user] for user in of} | {GOLDEN: GOLDEN_WEIGHT}, frozenset({GOLDEN}), {})
    for _ in range(ROUNDS):
        scores = {user: tally(numbers, compared, now, EACH) for user, numbers in of.items()}
        weights = {user: weight(*score) * fresh[user] for user, score in scores.items()}
        trusted = {
            user
            for user, (agreed, _) in scores.items()
            if agreed >= LIKED and weights[user] >= options.trusted and age[user] >= options.new_days
        }
        now = Standing(weights | {GOLDEN: GOLDEN_WEIGHT}, frozenset(trusted | {GOLDEN}), scores)
    return now


def tally(numbers: Iterable[int], compared: Voices, now: Standing, each: int) -> tuple[int, int]:
    """(agreed, contradicted) over these records, where one voice counts at most `each` times for and against."""
    spent: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    counts = {True: 0, False: 0}
    for number in numbers:
        voices = compared[number]
        pro, con = now.sides(voices)
        if abs(pro - con) < MARGIN:
            continue
        agrees = pro > con
        side = voices.pro if agrees else voices.con
        counts[agrees] += _spend(now.loud(side) or list(side), spent[agrees], now, each)
    return counts[True], counts[False]


def _spend(voices: list[str], spent: Counter[str], now: Standing, each: int) -> bool:
    """Whether voices that aren't used up carry the comparison; the loudest of them are used."""
    free = [voice for voice in voices if voice == GOLDEN or spent[voice] < each]
    total = 0.0
    for voice in sorted(free, key=lambda one: (-now.weight(one), one)):
        total += now.weight(voice)
        spent[voice] += 1
        if total >= MARGIN:
            return True
    return False


@dataclass(slots=True)
class _Line:
    """Records on the same thing in order of time."""

    numbers: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def add(self, number: int, at: float) -> None:
        self.numbers.append(number)
        self.times.append(at)

    def around(self, at: float, days: float) -> list[int]:
        """The nearest in time, so many at most, in order."""
        low, high = bisect_left(self.times, at - days * DAY), bisect_right(self.times, at + days * DAY)
        middle = bisect_left(self.times, at)
        return self.numbers[max(low, middle - VOICES) : min(high, middle + VOICES)]


def _said(
    record: RaterRecord,
    records: Sequence[RaterRecord],
    lines: tuple[Mapping[tuple[str, str], _Line], Mapping[str, _Line]],
    worth: Mapping[int, float],
    options: Options,
) -> dict[str, bool]:
    """What each other rater said near that time: whether it is the same. The latest word of each counts."""
    votes, texts = lines
    said: dict[str, bool] = {}
    if record.words and record.prompt in texts:
        for number in texts[record.prompt].around(record.at, options.text_days):
            other = records[number]
            if other.user != record.user:
                said[other.user] = alike(record.words, other.words, worth) >= options.similar
    on = (record.prompt, record.answer)
    if said or not record.vote or on not in votes:
        return said
    for number in votes[on].around(record.at, options.near_days):
        other = records[number]
        if other.user != record.user:
            said[other.user] = other.vote == record.vote
    if record.words:  # that an answer is bad doesn't make another one good
        return {user: False for user, same in said.items() if not same}
    return said


def telling(records: Iterable[RaterRecord]) -> dict[int, float]:
    """What a word tells: the log of how seldom texts have it (Spärck Jones 1972), nothing where all do."""
    texts = [record.words for record in records if record.words]
    seen = Counter(word for words in texts for word in words)
    return {word: log(len(texts) / n) for word, n in seen.items()}


def alike(one: frozenset[int], other: frozenset[int], worth: Mapping[int, float]) -> float:
    """Jaccard overlap of two texts' words, each by what it tells, 0 to 1."""
    shared, whole = sum(worth[word] for word in one & other), sum(worth[word] for word in one | other)
    return shared / whole if whole > 0 else float(one == other)


def overlap(one: frozenset[int], other: frozenset[int]) -> float:
    """Jaccard overlap of two sets, 0 to 1."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0
