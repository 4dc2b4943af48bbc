"""Whom to believe: weights of records, and which ones are held back until a person has looked at them.

Owns: the rules of quarantine and what a record weighs. Refuses to know content (texts come as hashes) and where records
are kept. Called by `feedback.quarantine` over a window and what came before it. Nothing is lost here: what is held can
be released, and what is outvoted only doesn't teach.

What can't be seen: lone records that nobody else's resemble, on prompts that nobody else asks. They are capped by rater
and day, weigh less from new accounts, and what they are worth is left to the gates.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from policies.agreement import GOLDEN, Compared, Standing, compare, novice, standing, tally, weight
from policies.campaigns import PUSHED, Campaign, brigades, campaigns
from policies.raters import DAY, Held, Options, RaterRecord
from policies.words import count

__all__ = ["Held", "Judgement", "Options", "RaterRecord", "agreement", "judge", "weight"]

FOUR_TO_ONE = 4.0
ALWAYS = 1_000_000


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is held, and what each other record weighs (0: outvoted or not confirmed yet, it doesn't teach), by number."""

    held: tuple[Held, ...]
    weights: Mapping[int, float]


def judge(records: Iterable[RaterRecord], options: Options, after: int = -1) -> Judgement:
    """Hold records after sequence number `after`, judged by all, each for the first reason found; and weigh all others.

    Brigade, campaign, contradiction (of goldens, of the others), burst.
    """
    known = sorted(records, key=lambda record: (record.at, record.seq))
    together = brigades(known, options)
    silent = {number for number, record in enumerate(known) if record.held or number in together}
    compared = compare(known, options, silent)
    now = standing(known, compared, options)
    pushed = campaigns(known, compared, now, options, silent)
    held: dict[int, str] = {}
    rules = (
        together,
        _pushed(known, compared, now, [each for each in pushed if each.proven]),
        _contradictions(known, compared, now, options),
        _bursts(known, options),
    )
    for found in rules:
        for number, reason in found.items():
            held.setdefault(number, reason)
    waiting = _pushed(known, compared, now, [each for each in pushed if not each.proven])
    weights = {
        record.seq: 0.0 if number in waiting else _weight(record, compared[number], now, options)
        for number, record in enumerate(known)
        if number not in held
    }
    found_now = [Held(known[number].seq, why) for number, why in held.items() if known[number].seq > after]
    return Judgement(tuple(sorted(found_now, key=_seq)), weights)


def agreement(records: Iterable[RaterRecord], options: Options) -> dict[str, tuple[int, int]]:
    """(agreed, contradicted) of each rater with what others, and goldens, said of the same."""
    known = sorted(records, key=lambda record: (record.at, record.seq))
    return dict(standing(known, compare(known, options), options).scores)


def _seq(held: Held) -> int:
    return held.seq


def _weight(record: RaterRecord, compared: Compared, now: Standing, options: Options) -> float:
    """The rater's weight x how far others agree with this very record; 0 where they outvote it."""
    pro, con = now.sides(compared)
    if con >= options.outvoted and con >= FOUR_TO_ONE * pro:
        return 0.0
    rater = now.weight(record.user) if record.user else weight(0, 0) * novice(0.0, options)
    return round(rater * min(1.0, 2 * (1 + pro) / (2 + pro + con)), 4)


def _pushed(
    records: Sequence[RaterRecord], compared: Sequence[Compared], now: Standing, found: Sequence[Campaign]
) -> dict[int, str]:
    """The texts of campaigns but those of bystanders that others confirm, and all that came since from who pushed."""
    texts: dict[str, int] = defaultdict(int)
    for record in records:
        texts[record.user] += bool(record.words)
    held: dict[int, str] = {}
    for campaign in found:
        pushed: dict[str, int] = defaultdict(int)
        for number in campaign.numbers:
            pushed[records[number].user] += 1
        part = {user for user, n in pushed.items() if user and (n >= PUSHED or (n > 1 and 2 * n >= texts[user]))}
        first = min(records[number].at for number in campaign.numbers)
        for number, record in enumerate(records):
            mine = record.user in part and record.at >= first
            if mine or (number in campaign.numbers and not tally([number], compared, now, 1)[0]):
                held.setdefault(number, campaign.reason)
    return held


def _contradictions(
    records: Sequence[RaterRecord], compared: Sequence[Compared], now: Standing, options: Options
) -> dict[int, str]:
    """All records of raters who are proven to go against the others, or against goldens, more than anybody honest."""
    of: dict[str, list[int]] = defaultdict(list)
    golden: dict[str, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        if record.user:
            of[record.user].append(number)
            if record.golden:
                golden[record.user].append(number)
    held: dict[int, str] = {}
    alone = Standing({GOLDEN: 1.0}, frozenset({GOLDEN}), {})
    for whom, numbers, scores in (
        ("goldens", golden, {user: tally(found, compared, alone, ALWAYS) for user, found in golden.items()}),
        ("all others", of, now.scores),
    ):
        judged = {user: scores[user] for user in numbers if sum(scores[user])}
        for user, (agreed, against) in judged.items():
            if _often(against, agreed + against, options.contradiction_share) > options.error_rate / len(judged):
                continue
            reason = f"a rater against {whom} on {against} of {agreed + against} answers"
            held.update({number: reason for number in of[user] if number not in held})
    return held


def _often(events: int, n: int, rate: float) -> float:
    """How likely at least `events` of `n` would be at that rate."""
    from scipy.stats import binom

    return float(binom.sf(events - 1, n, rate)) if events > rate * n else 1.0


def _bursts(records: Sequence[RaterRecord], options: Options) -> dict[int, str]:
    recent: dict[str, list[float]] = defaultdict(list)
    held = {}
    for number, record in enumerate(records):
        if not record.user:
            continue
        times = [at for at in recent[record.user] if at > record.at - DAY]
        recent[record.user] = times
        new = record.age() < options.new_days
        most = min(options.new_per_day, options.per_day) if new else options.per_day
        if len(times) >= most:
            whose = "a new account" if new else "one rater"
            held[number] = f"a burst: more than {count(most)} records of {whose} within 24 hours"
        else:
            times.append(record.at)
    return held
