"""Quarantine: records that are held back from teaching and from votes, until a person releases or drops them.

Owns: the held rows and the state of their records. Refuses to know why somebody is not trusted (`policies.trust`).
Called by the daemon (after a refusal by safety, on command) and by the loop's sweep. Nothing is ever lost in silence.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import and_, exists, func, select, update
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
            {"seq": seq, "deployment": deployment, "reason": reason, "at": now}
            | {"ended": None, "ending": "", "ended_by": ""}
            for seq, deployment in session.execute(query)
        ]
        upsert(session, Held, rows, update=("reason", "at", "ended", "ending", "ended_by"))
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


def release(session: Session, seqs: Iterable[int], now: float, by: str) -> int:
    """Let held records teach again, marked with who let them go; what its user has replaced meanwhile becomes history.

    They come back as what they are, old records: those of a window that was learned from return by replay, a few a
    cycle, and none counts as newly come in.
    """
    released = 0
    for part in _parts(seqs):
        ended = _end(session, part, "released", now, by)
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


def drop(session: Session, seqs: Iterable[int], now: float, by: str) -> int:
    """Never let held records teach: they stay in quarantine as history, and are listed no more."""
    return sum(len(_end(session, part, "dropped", now, by)) for part in _parts(seqs))


def listing(session: Session, deployment: str = "", limit: int = 100, hold: str = "") -> list[dict[str, Any]]:
    """What is held now, newest first: `seq, id, hold, deployment, reason, at, user_hash` (a hash's first 12 characters).

    `hold`: only those held together under this name (see `holds`).
    """
    query = (
        select(Held, Record.id, Record.user_hash)
        .join(Record, Record.seq == Held.seq)
        .where(Held.ended.is_(None))
        .order_by(Held.seq.desc())
    )
    if deployment:
        query = query.where(Held.deployment == deployment)
    if hold:
        reasons = [row["reason"] for row in holds(session, deployment) if row["hold"].startswith(hold)]
        query = query.where(Held.reason.in_(reasons))
    return [
        {
            "seq": held.seq,
            "id": id,
            "hold": _hold(held.deployment, held.reason),
            "deployment": held.deployment,
            "reason": held.reason,
            "at": held.at,
            "user_hash": user[:12],
        }
        for held, id, user in session.execute(query.limit(limit))
    ]


def holds(session: Session, deployment: str = "") -> list[dict[str, Any]]:
    """What is held now by its reason, the newest first: `hold, deployment, reason, records, raters, at`.

    `hold` names the records that were held together: eight hexadecimal digits of what they were held for.
    """
    raters = func.count(func.distinct(func.nullif(Record.user_hash, "")))
    query = (
        select(Held.deployment, Held.reason, func.count(), raters, func.max(Held.at))
        .join(Record, Record.seq == Held.seq)
        .where(Held.ended.is_(None))
        .group_by(Held.deployment, Held.reason)
        .order_by(func.max(Held.at).desc(), Held.reason)
    )
    if deployment:
        query = query.where(Held.deployment == deployment)
    names = ("deployment", "reason", "records", "raters", "at")
    return [{"hold": _hold(row[0], row[1]), **dict(zip(names, row, strict=True))} for row in session.execute(query)]


def chosen(
    session: Session, deployment: str, *, hold: str = "", rater: str = "", seqs: Sequence[int] = ()
) -> list[int]:
    """The records held now that are meant: of the hold and of the rater whose names begin so, or by their numbers."""
    query = (
        select(Held.seq, Held.reason)
        .join(Record, Record.seq == Held.seq)
        .where(Held.deployment == deployment, Held.ended.is_(None))
    )
    if rater:
        query = query.where(Record.user_hash.startswith(rater, autoescape=True))
    wanted = set(seqs)
    found = [(seq, reason) for seq, reason in session.execute(query) if not wanted or seq in wanted]
    return sorted(seq for seq, reason in found if not hold or _hold(deployment, reason).startswith(hold))


def _rater_record(
    seq: int, user: str, ingested: float, prompt: str, rating: float | None, body: dict[str, Any]
) -> trust.RaterRecord:
    given = body.get("correction") or body.get("preferred")
    text, answer = (_digest(part) if part else "" for part in (given, body.get("response")))
    return trust.RaterRecord(seq, user, ingested, prompt, text, answer, rating)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _hold(deployment: str, reason: str) -> str:
    return _digest(f"{deployment}\n{reason}")[:8]


def _end(session: Session, seqs: Sequence[int], ending: str, now: float, by: str) -> list[int]:
    query = select(Held.seq).where(Held.seq.in_(seqs), Held.ended.is_(None))
    found = list(session.scalars(query))
    session.execute(update(Held).where(Held.seq.in_(found)).values(ended=now, ending=ending, ended_by=by))
    return found


def _parts(seqs: Iterable[int]) -> list[list[int]]:
    numbers = sorted(set(seqs))
    return [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]
