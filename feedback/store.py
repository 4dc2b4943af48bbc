"""All reads of records: heads, counts, votes, judge items, dead letters.

Owns: what counts as live, usable, and consented to for a slot. Refuses to know sources, and what the numbers are for.
Called by `daemon` (snapshots, evaluation, views) and `feedback.windows`. Writes are in `feedback.append` and
`feedback.erase`.
"""

from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlalchemy.orm import Session

from feedback.records import NEUTRAL
from feedback.tables import Counter, DeadLetter, Held, Record
from policies.model import SignalCounts, Votes

REFERENCES = ("correction", "pair")
COUNTERS = ("stored", "duplicates", "dead_letters", "conflicts", "erased")


def head(session: Session) -> int:
    """The highest ingest sequence number, 0 when nothing was stored yet."""
    return session.scalar(select(func.max(Record.seq))) or 0


def head_at(session: Session, at: float) -> int:
    """The highest sequence number that had come in before unix time `at`, by bisecting the sequence, not by a scan."""
    low, high = 0, head(session)
    while low < high:
        middle = (low + high) // 2
        query = select(Record.seq, Record.ingested).where(Record.seq > middle).order_by(Record.seq).limit(1)
        found = session.execute(query).first()
        if found is None or found.ingested >= at:
            high = middle
        else:
            low = int(found.seq)
    return low


def ingested(session: Session, seq: int, default: float) -> float:
    """When the first record from `seq` on came in, unix seconds; `default` where none has."""
    found = session.scalar(select(Record.ingested).where(Record.seq >= seq).order_by(Record.seq).limit(1))
    return default if found is None else found


def consented(tenant: str) -> ColumnElement[bool]:
    """What a slot may learn from: the base from `shared` and from its own `tenant` records, a tenant from its own."""
    if tenant:
        return and_(Record.tenant == tenant, Record.consent.in_(("tenant", "shared")))
    return or_(Record.consent == "shared", and_(Record.tenant == "", Record.consent == "tenant"))


def signal_counts(session: Session, deployment: str, tenant: str, first: int, last: int) -> SignalCounts:
    """Live, usable records of a slot over (first, last], by what they teach; judge records only as references."""
    query = (
        select(Record.usable, Record.fold, func.count())
        .where(Record.seq > first, Record.seq <= last, *_teaching(deployment, tenant))
        .group_by(Record.usable, Record.fold)
    )
    counts = {(usable, fold): int(n) for usable, fold, n in session.execute(query)}
    return SignalCounts(
        corrections=counts.get(("correction", "train"), 0),
        pairs=counts.get(("pair", "train"), 0),
        positives=counts.get(("positive", "train"), 0),
        negatives=counts.get(("negative", "train"), 0),
        judge_references=sum(counts.get((usable, "judge"), 0) for usable in REFERENCES),
    )


def judge_total(session: Session, deployment: str, tenant: str) -> int:
    """Judge records of a slot that have a reference (a correction or a preferred answer), of all time."""
    query = select(func.count()).where(*_teaching(deployment, tenant), *_reference())
    return session.scalar(query) or 0


def judge_items(
    session: Session, deployment: str, tenant: str, first: int, last: int, limit: int
) -> list[dict[str, Any]]:
    """The newest `limit` judge records with a reference over (first, last], in ingest order.

    Each has `id`, `slice` (the feature `slice` or `topic`, else ""), `messages`, `reference`, `preferred`, `rejected`.
    """
    query = (
        select(Record.id, Record.features, Record.body)
        .where(Record.seq > first, Record.seq <= last, *_teaching(deployment, tenant), *_reference())
        .order_by(Record.seq.desc())
        .limit(limit)
    )
    return [_judge_item(*row) for row in reversed(session.execute(query).all())]


def votes(session: Session, deployment: str, version: str, *, after_seq: int = 0, upto_seq: int | None = None) -> Votes:
    """Ratings of a version over (after_seq, upto_seq]: the latest of each user, every anonymous one; no neutral ones.

    A rating stays a vote when its user corrects the same answer later: the correction supersedes it as a lesson only.
    """
    ratings = select(Record.seq, Record.user_hash, Record.rating).where(
        Record.deployment == deployment,
        Record.model_version == version,
        Record.seq > after_seq,
        Record.kind == "feedback",
        Record.state.in_(("live", "superseded")),
        Record.rating.is_not(None),
    )
    if upto_seq is not None:
        ratings = ratings.where(Record.seq <= upto_seq)
    rated = ratings.subquery()
    # One group a user, one a record where nobody is named.
    newest = (
        select(func.max(rated.c.seq).label("seq"))
        .where(rated.c.user_hash != "")
        .group_by(rated.c.user_hash)
        .union_all(select(rated.c.seq).where(rated.c.user_hash == ""))
    ).subquery()
    query = (
        select(func.count(), func.sum(case((Record.rating > 0, 1), else_=0)))
        .join(newest, newest.c.seq == Record.seq)
        .where(func.abs(Record.rating) > NEUTRAL)
    )
    n, good = session.execute(query).one()
    return Votes(version=version, n=n, good=int(good or 0))


def counters(session: Session, deployment: str) -> dict[str, int]:
    """Running counts of a deployment: stored, duplicates, dead_letters, conflicts, erased, and quarantined now.

    The deployment "" has what could not be told to belong to any.
    """
    query = select(Counter.name, Counter.value).where(Counter.deployment == deployment)
    kept = dict.fromkeys(COUNTERS, 0) | {name: int(value) for name, value in session.execute(query)}
    held = select(func.count()).where(Held.deployment == deployment, Held.ended.is_(None))
    return kept | {"quarantined": session.scalar(held) or 0}


def dead_letters(session: Session, limit: int, deployment: str = "") -> list[dict[str, Any]]:
    """The newest dead letters, newest first; of one deployment, or of all."""
    query = select(DeadLetter).order_by(DeadLetter.id.desc()).limit(limit)
    if deployment:
        query = query.where(DeadLetter.deployment == deployment)
    names = (
        "id", "deployment", "reason", "field", "message", "source", "partition", "offset", "at", "published", "body",
    )  # fmt: skip
    return [{name: getattr(letter, name) for name in names} for letter in session.scalars(query)]


def body(session: Session, seq: int) -> dict[str, Any]:
    """The content of one record; empty where it was erased or never was."""
    return session.scalar(select(Record.body).where(Record.seq == seq)) or {}


def _teaching(deployment: str, tenant: str) -> tuple[ColumnElement[bool], ...]:
    return (Record.deployment == deployment, Record.state == "live", Record.usable != "", consented(tenant))


def _reference() -> tuple[ColumnElement[bool], ...]:
    return (Record.fold == "judge", Record.usable.in_(REFERENCES))


def _judge_item(id: str, features: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    named = features.get("slice", features.get("topic", ""))
    return {
        "id": id,
        "slice": named if isinstance(named, str) else "",
        "messages": content["messages"],
        "reference": content.get("correction") or content.get("preferred"),
        "preferred": content.get("preferred"),
        "rejected": content.get("rejected"),
    }
