"""Quarantine: records that are held back from teaching and from votes, until a person releases or drops them.

Owns: the held rows and the state of their records. Refuses to know why somebody is not trusted (`policies.trust`).
Called by the daemon (after a refusal by safety, on command) and by the loop's sweep. Nothing is ever lost in silence.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import and_, exists, select, update
from sqlalchemy.orm import Session, aliased

from feedback.statements import upsert
from feedback.tables import Held, Record
from policies import trust

CHUNK = 500


def hold(session: Session, seqs: Iterable[int], reason: str, now: float) -> int:
    """Hold live records back; returns how many were not held before. Erased and superseded ones are left as they are."""
    held = 0
    for part in _parts(seqs):
        query = select(Record.seq, Record.deployment).where(Record.seq.in_(part), Record.state == "live")
        rows = [
            {"seq": seq, "deployment": deployment, "reason": reason, "at": now, "ended": None, "ending": ""}
            for seq, deployment in session.execute(query)
        ]
        upsert(session, Held, rows, update=("reason", "at", "ended", "ending"))
        session.execute(update(Record).where(Record.seq.in_([row["seq"] for row in rows])).values(state="quarantined"))
        held += len(rows)
    return held


def sweep(
    session: Session, deployment: str, first: int, last: int, now: float, options: trust.Options | None = None
) -> int:
    """Ask `policies.trust` about the raters of (first, last], and hold what it doesn't believe; returns how many."""
    query = (
        select(Record.seq, Record.user_hash, Record.ingested, Record.prompt_hash, Record.rating, Record.body)
        .where(Record.deployment == deployment, Record.seq > first, Record.seq <= last)
        .where(Record.kind == "feedback", Record.state == "live", Record.user_hash != "")
        # What a person has let go is not held again by a rule.
        .where(Record.seq.not_in(select(Held.seq).where(Held.ending == "released")))
        .execution_options(yield_per=CHUNK)
    )
    records = [_rater_record(*row) for row in session.execute(query)]
    reasons: dict[str, list[int]] = {}
    for found in trust.judge(records, options or trust.Options()):
        reasons.setdefault(found.reason, []).append(found.seq)
    return sum(hold(session, seqs, reason, now) for reason, seqs in reasons.items())


def release(session: Session, seqs: Iterable[int], now: float) -> int:
    """Let held records teach again; one that its user has replaced meanwhile becomes history instead."""
    released = 0
    for part in _parts(seqs):
        ended = _end(session, part, "released", now)
        later = aliased(Record)
        replaced = exists().where(
            and_(
                Record.interaction != "",
                Record.user_hash != "",
                later.deployment == Record.deployment,
                later.interaction == Record.interaction,
                later.user_hash == Record.user_hash,
                later.kind == "feedback",
                later.state != "erased",
                later.seq > Record.seq,
            )
        )
        ours = and_(Record.seq.in_(ended), Record.state == "quarantined")
        outdated = list(session.scalars(select(Record.seq).where(ours, Record.kind == "feedback", replaced)))
        session.execute(update(Record).where(ours).values(state="live"))
        session.execute(update(Record).where(Record.seq.in_(outdated)).values(state="superseded"))
        released += len(ended)
    return released


def drop(session: Session, seqs: Iterable[int], now: float) -> int:
    """Never let held records teach: they stay in quarantine as history, and are listed no more."""
    return sum(len(_end(session, part, "dropped", now)) for part in _parts(seqs))


def listing(session: Session, deployment: str = "", limit: int = 100) -> list[dict[str, Any]]:
    """What is held now, newest first: `seq, id, deployment, reason, at, user_hash` (a hash's first 12 characters)."""
    query = (
        select(Held, Record.id, Record.user_hash)
        .join(Record, Record.seq == Held.seq)
        .where(Held.ended.is_(None))
        .order_by(Held.seq.desc())
        .limit(limit)
    )
    if deployment:
        query = query.where(Held.deployment == deployment)
    return [
        {
            "seq": held.seq,
            "id": id,
            "deployment": held.deployment,
            "reason": held.reason,
            "at": held.at,
            "user_hash": user[:12],
        }
        for held, id, user in session.execute(query)
    ]


def _rater_record(
    seq: int, user: str, ingested: float, prompt: str, rating: float | None, body: dict[str, Any]
) -> trust.RaterRecord:
    given = body.get("correction") or body.get("preferred")
    text, answer = (_digest(part) if part else "" for part in (given, body.get("response")))
    return trust.RaterRecord(seq, user, ingested, prompt, text, answer, rating)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _end(session: Session, seqs: Sequence[int], ending: str, now: float) -> list[int]:
    query = select(Held.seq).where(Held.seq.in_(seqs), Held.ended.is_(None))
    found = list(session.scalars(query))
    session.execute(update(Held).where(Held.seq.in_(found)).values(ended=now, ending=ending))
    return found


def _parts(seqs: Iterable[int]) -> list[list[int]]:
    numbers = sorted(set(seqs))
    return [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]
