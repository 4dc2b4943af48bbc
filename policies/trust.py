"""Whom to believe: weights of raters, and which records are held back until a person has looked at them.

Owns: the scores and the threshold of quarantine. Refuses to know content (texts come as hashes) and where records are
kept. Called by `feedback.quarantine` over the raters of a window. Nothing is lost here: what is held can be released.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Options:
    """`per_day`: records of one rater within 24 hours that are believed; later ones of the burst are held.

    `brigade`: raters who gave the same `brigade_texts` texts to the same prompts within a day are held together.
    `contradictions`: judged prompts of a rater, of which `contradiction_share` go against the majority of the others,
    that hold all of the rater's records.
    """

    per_day: int = 200
    brigade: int = 3
    brigade_texts: int = 5
    contradictions: int = 8
    contradiction_share: float = 0.8


@dataclass(frozen=True, slots=True)
class RaterRecord:
    """One record as far as trust needs it: `rating` in [-1, 1] or None; hashes of prompt and of the text given ("").

    `user` is the keyed hash of the rater, "" for anonymous ones, who are not judged as one. `at`: when it was ingested.
    """

    seq: int
    user: str
    at: float
    prompt: str = ""
    text: str = ""
    answer: str = ""
    rating: float | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A record to hold back, and why."""

    seq: int
    reason: str


def judge(records: Iterable[RaterRecord], options: Options) -> tuple[Held, ...]:
    """The records to hold back, by sequence number, each with the first reason found: brigade, contradiction, burst."""
    known = sorted((record for record in records if record.user), key=lambda record: (record.at, record.seq))
    held: dict[int, str] = {}
    for rule in (_brigades, _contradictions, _bursts):
        for seq, reason in rule(known, options).items():
            held.setdefault(seq, reason)
    return tuple(Held(seq, held[seq]) for seq in sorted(held))


def weight(agreed: int, contradicted: int) -> float:
    """How far a rater is believed, in (0, 1): the mean of Beta(4 + agreed, 1 + contradicted); a stranger has 0.8."""
    return (4 + max(0, agreed)) / (5 + max(0, agreed) + max(0, contradicted))


def agreement(records: Iterable[RaterRecord]) -> dict[str, tuple[int, int]]:
    """(agreed, contradicted) of each rater with the majority of all others on the same answer to the same prompt."""
    votes: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: (record.at, record.seq)):
        if record.user and record.rating and record.prompt:
            votes[record.prompt, record.answer][record.user] = 1 if record.rating > 0 else -1
    scores: dict[str, tuple[int, int]] = {}
    for given in votes.values():
        total = sum(given.values())
        for user, vote in given.items():
            others, voters = total - vote, len(given) - 1
            if voters < 2 or others == 0:
                continue
            agreed, against = scores.get(user, (0, 0))
            same = (others > 0) == (vote > 0)
            scores[user] = (agreed + same, against + (not same))
    return scores


def _bursts(records: Sequence[RaterRecord], options: Options) -> dict[int, str]:
    recent: dict[str, list[float]] = defaultdict(list)
    held = {}
    for record in records:
        times = [at for at in recent[record.user] if at > record.at - DAY]
        recent[record.user] = times
        if len(times) >= options.per_day:
            held[record.seq] = f"a burst: more than {options.per_day} records of one rater within 24 hours"
        else:
            times.append(record.at)
    return held


def _contradictions(records: Sequence[RaterRecord], options: Options) -> dict[int, str]:
    scores = agreement(records)
    bad = {
        user: f"a rater against all others on {against} of {agreed + against} answers"
        for user, (agreed, against) in scores.items()
        if agreed + against >= options.contradictions and against >= options.contradiction_share * (agreed + against)
    }
    return {record.seq: bad[record.user] for record in records if record.user in bad}


def _brigades(records: Sequence[RaterRecord], options: Options) -> dict[int, str]:
    """Raters who share so many (prompt, text) pairs within a day that chance is no explanation."""
    given: dict[tuple[str, str], list[RaterRecord]] = defaultdict(list)
    for record in records:
        if record.prompt and record.text:
            given[record.prompt, record.text].append(record)
    shared: dict[frozenset[str], set[tuple[str, str]]] = defaultdict(set)
    for pair, copies in given.items():
        for group in _within_a_day(copies):
            users = frozenset(record.user for record in group)
            if len(users) >= options.brigade:
                shared[users].add(pair)
    held: dict[int, str] = {}
    for users, pairs in sorted(shared.items(), key=lambda item: sorted(item[0])):
        together = {pair for others, found in shared.items() if users <= others for pair in found}
        if len(together) < options.brigade_texts:
            continue
        reason = f"a brigade of {len(users)} raters: the same {len(together)} texts to the same prompts within a day"
        for pair in pairs | together:
            held.update({record.seq: reason for record in given[pair] if record.user in users})
    return held


def _within_a_day(copies: Sequence[RaterRecord]) -> list[list[RaterRecord]]:
    """Runs of records, each less than a day after the one before it."""
    runs = [[copies[0]]]
    for before, record in pairwise(copies):
        if record.at - before.at < DAY:
            runs[-1].append(record)
        else:
            runs.append([record])
    return runs
