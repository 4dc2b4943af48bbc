"""Texts that push something: brigades that copy each other, and campaigns that vary their words but not their point.

Owns: these two rules. Refuses to know words (they come as hashes). Called by `policies.trust`.

A campaign needs words of its own: whatever else is varied, what it pushes is named again and again. So the texts that
share a word (or a word pair) are one pool, however many accounts wrote them over however many weeks, and a pool is judged
as one: others who answer the same prompts confirm honest texts at a usual rate, and hardly ever those of a campaign,
which either goes against them or keeps to prompts that nobody else writes to. A campaign that hides in right answers is
found by its word: a new one that nobody else uses where it is used.

What can't be told from an honest crowd: as many long known accounts as texts, each of which says it once or twice.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log

from policies.agreement import Compared, Standing, overlap, tally
from policies.raters import DAY, Options, RaterRecord
from policies.words import count, percent

COMMON = 0.5  # share of all texts from which a word is everybody's
COMPARABLE = 0.1  # confirmed share of all texts below which nothing can be told
PUSHED = 3  # texts of one campaign that make all of their rater's records part of it; or two that are half of all
TYPICAL = 0.8  # weight of a rater about whom nothing bad is known
KNOWN = 3  # raters who used a word in the older half of what is looked at: then it isn't new


@dataclass(frozen=True, slots=True)
class Campaign:
    """Records (their places in what was judged) that are one, and why; not `proven` ones may yet be confirmed."""

    numbers: frozenset[int]
    reason: str
    proven: bool


def campaigns(
    records: Sequence[RaterRecord],
    compared: Sequence[Compared],
    now: Standing,
    options: Options,
    silent: Container[int] = (),
) -> list[Campaign]:
    """Pools of texts with a word in common that are confirmed far less often than usual.

    A one-sided binomial test a pool, the error rate shared by those that could be significant at all (Tarone 1990,
    Biometrics 46:515). Pools that share records are told as one campaign. A new word that looks like one before it is
    proven makes its texts wait. `silent` as in `agreement.compare`.
    """
    texts = [number for number, record in enumerate(records) if record.words]
    heard = [number for number in texts if number not in silent]
    usual = tally(heard, compared, now, len(texts))[0] / max(1, len(heard))
    if usual < COMPARABLE:
        return []
    pools = [pool for pool in _pools(records, texts).values() if len(pool) <= COMMON * len(texts)]
    rate, writers = options.confirmed_share * usual, len({records[number].user for number in heard})
    least, tests = _testable([len(pool) for pool in pools], rate, options.error_rate)
    proven, waiting = [], []
    for pool in pools:
        new = _new(pool, records, texts)
        if len(pool) < least and not (new and (1 - rate) ** len(pool) <= options.waits):
            continue
        if 2 * _crowd(pool, records, now, options) > len(pool):
            continue
        each = max(1, ceil(2 * len(pool) / writers))  # twice what an even share of the confirmations would be
        named = tally(pool, _named(pool, records, options), now, each)[0]
        alike = tally(pool, compared, now, each)[0]
        # A word that others use for the same prompts is theirs too, however differently they put the rest.
        chance = _rare(alike, len(pool), rate) if 2 * named < len(pool) else 1.0
        if new:  # in a right answer only the new word itself can give it away
            chance = min(chance, _rare(named, len(pool), rate))
        if len(pool) >= least and chance <= options.error_rate / tests:
            proven.append(frozenset(pool))
        elif new and chance <= options.waits:
            waiting.append(frozenset(pool))
    unsure = "a new word that nobody else confirms"
    return [
        *(_told(group, records, compared, now, usual, options) for group in _joined(proven)),
        *(Campaign(group, unsure, proven=False) for group in _joined(waiting)),
    ]


def _pools(records: Sequence[RaterRecord], texts: Sequence[int]) -> dict[int, list[int]]:
    """Texts by the words and word pairs that they have."""
    pools: dict[int, list[int]] = defaultdict(list)
    for number in texts:
        for word in records[number].words | records[number].pairs:
            pools[word].append(number)
    return pools


def _new(pool: Sequence[int], records: Sequence[RaterRecord], texts: Sequence[int]) -> bool:
    """Whether hardly anybody used the word in the older half of the time; what is held by now doesn't count."""
    middle = (records[texts[0]].at + records[texts[-1]].at) / 2
    users = {records[number].user for number in pool if records[number].at < middle and not records[number].held}
    return len(users) < KNOWN


def _crowd(pool: Sequence[int], records: Sequence[RaterRecord], now: Standing, options: Options) -> int:
    """Raters of a pool who are no novices, agree with others elsewhere, and hardly ever repeat themselves.

    Where they are as many as its texts, a crowd says something, each in his own words on his own occasion.
    """
    texts = Counter(records[number].user for number in pool)
    since = {records[number].user: records[number].since for number in pool}
    known = records[-1].at - options.new_days * DAY
    return sum(n < PUSHED and now.weight(user) >= TYPICAL and since[user] <= known for user, n in texts.items())


def _named(pool: Sequence[int], records: Sequence[RaterRecord], options: Options) -> Mapping[int, Compared]:
    """Who else used the word in a text for the same prompt, for every text of its pool.

    Whoever brings it up for one prompt after the other is no witness: a ring would confirm itself.
    """
    asked: dict[str, list[int]] = defaultdict(list)
    brought: dict[str, set[str]] = defaultdict(set)
    for number in pool:
        asked[records[number].prompt].append(number)
        brought[records[number].user].add(records[number].prompt)

    def others(number: int) -> Iterator[str]:
        mine = records[number]
        for other in (records[each] for each in asked[mine.prompt] if mine.prompt):
            if (
                not other.held
                and other.user not in ("", mine.user)
                and abs(other.at - mine.at) <= options.text_days * DAY
            ):
                yield other.user

    return {number: Compared(tuple(dict.fromkeys(others(number)))) for number in pool}


def brigades(records: Sequence[RaterRecord], options: Options) -> dict[int, str]:
    """Raters who share so many (prompt, text) pairs within a day that chance is no explanation; reasons by number."""
    given = _pairs(records, options)
    shared: dict[frozenset[str], set[tuple[str, int]]] = defaultdict(set)
    for pair, copies in given.items():
        for group in _within_a_day(records, copies):
            users = frozenset(records[number].user for number in group)
            if len(users) >= options.brigade:
                shared[users].add(pair)
    held: dict[int, str] = {}
    for users, pairs in sorted(shared.items(), key=lambda item: sorted(item[0])):
        together = {pair for others, found in shared.items() if users <= others for pair in found}
        if len(together) < options.brigade_texts:
            continue
        reason = f"a brigade of {len(users)} raters: the same {len(together)} texts to the same prompts within a day"
        for pair in pairs | together:
            held.update({number: reason for number in given[pair] if records[number].user in users})
    return held


def _testable(sizes: Sequence[int], rate: float, error: float) -> tuple[int, int]:
    """The smallest pool that could be significant (none of it confirmed), and how many are at least that large."""
    tests = 1
    while True:
        least = ceil(log(error / tests) / log(1 - rate))
        larger = sum(size >= least for size in sizes)
        if larger <= tests:
            return least, max(1, larger)
        tests = larger if larger <= 2 * tests else 2 * tests


def _rare(agreed: int, n: int, rate: float) -> float:
    """How likely at most `agreed` of `n` would be at that rate."""
    from scipy.stats import binom

    return float(binom.cdf(agreed, n, rate))


def _joined(pools: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """Pools that have a record in common, put together."""
    groups: list[set[int]] = []
    for pool in sorted(pools, key=lambda one: (-len(one), min(one))):
        touching = [group for group in groups if group & pool]
        groups = [group for group in groups if not group & pool]
        groups.append(set(pool).union(*touching))
    return sorted((frozenset(group) for group in groups), key=min)


def _told(
    numbers: frozenset[int],
    records: Sequence[RaterRecord],
    compared: Sequence[Compared],
    now: Standing,
    usual: float,
    options: Options,
) -> Campaign:
    raters: Mapping[str, float] = {records[n].user: records[n].age() for n in sorted(numbers) if records[n].user}
    old = sum(age >= options.new_days for age in raters.values())
    agreed, _ = tally(sorted(numbers), compared, now, 1)
    known = f", {old} of them long known" if old else ""
    reason = (
        f"a campaign: {count(len(numbers))} texts of {count(max(1, len(raters)), 'rater')}{known} share words, and others "
        f"confirm {percent(agreed / len(numbers))} of them ({percent(usual)} is usual)"
    )
    return Campaign(numbers, reason, proven=True)


def _pairs(records: Sequence[RaterRecord], options: Options) -> dict[tuple[str, int], list[int]]:
    """Records by (prompt, text), where texts that are nearly the same are the same."""
    kinds: dict[str, list[RaterRecord]] = defaultdict(list)
    given: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        if not (record.user and record.prompt and record.text):
            continue
        known = kinds[record.prompt]
        same = (
            kind
            for kind, other in enumerate(known)
            if other.text == record.text or overlap(other.words, record.words) >= options.alike
        )
        kind = next(same, len(known))
        if kind == len(known):
            known.append(record)
        given[record.prompt, kind].append(number)
    return given


def _within_a_day(records: Sequence[RaterRecord], copies: Sequence[int]) -> list[list[int]]:
    """Runs of records, each less than a day after the one before it."""
    runs = [[copies[0]]]
    for before, number in pairwise(copies):
        if records[number].at - records[before].at < DAY:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
