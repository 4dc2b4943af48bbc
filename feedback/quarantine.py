"""Quarantine: records that are held back from teaching and from votes, until a person releases or drops them.

Owns: the held rows and the state of their records. Refuses to know why somebody is not trusted (`policies.trust`).
Called by the daemon (after a refusal by safety, on command) and by the loop's sweep. Nothing is ever lost in silence.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, cast

from sqlalchemy import Table, and_, bindparam, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from feedback import near
from feedback.statements import upsert
from feedback.tables import Held, Record
from policies import trust

CHUNK = 500
OPTIONS = trust.Options()

# By a golden's prompt (`near.normalise` of `near.prompt_text`): whether an answer passes the golden's check.
Goldens = Mapping[str, Callable[[str], bool]]


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
    session: Session,
    deployment: str,
    first: int,
    last: int,
    now: float,
    options: trust.Options = OPTIONS,
    goldens: Goldens | None = None,
) -> int:
    """`judge` the records of (first, last] and `apply` it, in one transaction; returns how many were held."""
    return apply(session, deployment, judge(session, deployment, first, last, options, goldens), now)


def judge(
    session: Session,
    deployment: str,
    first: int,
    last: int,
    options: trust.Options = OPTIONS,
    goldens: Goldens | None = None,
) -> trust.Judgement:
    """What `policies.trust` says of the records of (first, last]; reads only, some ten thousand records in seconds.

    What came before the window (`options.history`) speaks for and against its raters, and so does what is held already:
    a second look finds what the first one found. The older records are weighed again too, since replay draws from them.
    `goldens`: checks by the normalised prompt (see `Goldens`).
    """
    return trust.judge(_evidence(session, deployment, first - options.history, last, goldens or {}), options, first)


def apply(session: Session, deployment: str, found: trust.Judgement, now: float) -> int:
    """Hold what isn't believed, and write the weights of the rest down; returns how many were held."""
    reasons: dict[str, list[int]] = {}
    for each in found.held:
        reasons.setdefault(each.reason, []).append(each.seq)
    _weigh(session, deployment, found.weights)
    return sum(hold(session, seqs, reason, now) for reason, seqs in reasons.items())


def _evidence(session: Session, deployment: str, first: int, last: int, goldens: Goldens) -> list[trust.RaterRecord]:
    """The feedback of (first, last] without its content; what a person has let go is not judged by a rule again."""
    query = (
        select(
            Record.seq, Record.user_hash, Record.ingested, Record.prompt_hash, Record.rating, Record.body, Record.state
        )
        .where(Record.deployment == deployment, Record.seq > first, Record.seq <= last)
        .where(Record.kind == "feedback", Record.state.in_(("live", "superseded", "quarantined")))
        .where(Record.seq.not_in(select(Held.seq).where(Held.ending == "released")))
        .order_by(Record.seq)
        .execution_options(yield_per=CHUNK)
    )
    records = [_rater_record(row, goldens) for row in session.execute(query)]
    since = _since(session, deployment, {record.user for record in records if record.user})
    return [replace(record, since=since.get(record.user, record.at)) for record in records]


def _since(session: Session, deployment: str, users: set[str]) -> dict[str, float]:
    """When each rater's first record came."""
    found: dict[str, float] = {}
    wanted = sorted(users)
    for start in range(0, len(wanted), CHUNK):
        query = (
            select(Record.user_hash, func.min(Record.ingested))
            .where(Record.deployment == deployment, Record.user_hash.in_(wanted[start : start + CHUNK]))
            .group_by(Record.user_hash)
        )
        found |= {row[0]: row[1] for row in session.execute(query)}
    return found


def _weigh(session: Session, deployment: str, weights: Mapping[int, float]) -> None:
    """Write down the weights that are other than they were."""
    first = min(weights, default=0) - 1
    query = select(Record.seq, Record.weight).where(
        Record.deployment == deployment, Record.seq > first, Record.state == "live", Record.kind == "feedback"
    )
    rows = [
        {"number": seq, "new": weights[seq]}
        for seq, before in session.execute(query)
        if weights.get(seq, before) != before
    ]
    if rows:
        table = cast(Table, Record.__table__)
        session.execute(update(table).where(table.c.seq == bindparam("number")).values(weight=bindparam("new")), rows)
        session.expire_all()


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


def _rater_record(row: Any, goldens: Goldens) -> trust.RaterRecord:
    seq, user, at, prompt, rating, body, state = row
    given, said = str(body.get("correction") or body.get("preferred") or ""), str(body.get("response") or "")
    words, pairs = near.words(given)
    return trust.RaterRecord(
        seq=seq,
        user=user,
        at=at,
        prompt=prompt,
        text=_digest(given) if given else "",
        answer=_digest(said) if said else "",
        rating=rating,
        words=words,
        pairs=pairs,
        golden=_asked_a_golden(body, given, said, rating, goldens) if goldens else 0,
        held=state == "quarantined",
    )


def _asked_a_golden(body: dict[str, Any], given: str, said: str, rating: float | None, goldens: Goldens) -> int:
    """1 where the rater agrees with a golden of the same prompt, -1 where he contradicts it, 0 without one."""
    passes = goldens.get(near.normalise(near.prompt_text(body.get("messages") or ())))
    if passes is None:
        return 0
    if given:
        return 1 if passes(given) else -1
    return 0 if not rating or not said else 1 if passes(said) == (rating > 0) else -1


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
