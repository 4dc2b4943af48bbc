"""Erasure: content is emptied wherever this package keeps it; a tombstone and the commitments stay.

Owns: what an erased record still is. Refuses to know training files and versions (`daemon.erasure` settles a tombstone).
Called by `feedback.ingest` for erase records, and by the daemon for a person's command.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from feedback import sketch
from feedback.statements import insert
from feedback.tables import DeadLetter, Held, Record, Tombstone

CHUNK = 500

EMPTY: dict[str, Any] = {
    "state": "erased", "body": {}, "features": {}, "commitment_key": "", "prompt_hash": "", "content_hash": "",
    "user_hash": "", "interaction": "", "rating": None, "usable": "",
}  # fmt: skip


def erase(
    session: Session,
    deployment: str,
    *,
    ids: Sequence[str] = (),
    user_hashes: Sequence[str] = (),
    before: float,
    now: float,
) -> list[int]:
    """Empty the named records and those of the user; what arrives later under an erased id is refused. Idempotent.

    `before` is the time that the request carries: a user's records of a later time are new, and are taken.
    Returns the sequence numbers that were emptied now.
    """
    erased: list[int] = []
    for id in ids:
        found = _of_ids(session, deployment, [id])
        if not found and _known(session, deployment, f"id:{id}") is None:
            _stand_in(session, deployment, id, now)
        erased += _empty(session, deployment, f"id:{id}", found, before, now)
        _empty_letters(session, DeadLetter.record == id, deployment)
    for user in user_hashes:
        erased += _empty(session, deployment, f"user:{user}", _of_user(session, deployment, user), before, now)
        _empty_letters(session, DeadLetter.user_hash == user, deployment)
    return erased


def _of_ids(session: Session, deployment: str, ids: Sequence[str]) -> list[int]:
    query = select(Record.seq).where(Record.deployment == deployment, Record.id.in_(ids), Record.state != "erased")
    return list(session.scalars(query))


def _of_user(session: Session, deployment: str, user: str) -> list[int]:
    query = select(Record.seq).where(Record.user_hash == user, Record.deployment == deployment)
    return list(session.scalars(query.where(Record.state != "erased").order_by(Record.seq)))


def _known(session: Session, deployment: str, request: str) -> Tombstone | None:
    query = select(Tombstone).where(Tombstone.deployment == deployment, Tombstone.request == request)
    return session.scalars(query.limit(1)).first()


def _stand_in(session: Session, deployment: str, id: str, now: float) -> None:
    """An erased record of a name that never came (or already stands erased): it refuses what would arrive later."""
    row = EMPTY | {
        "deployment": deployment, "id": id, "kind": "erase", "time": now, "ingested": now, "fold": "train",
        "commitment": "", "source": "", "sampling": None, "tenant": "", "model_version": "", "consent": "none",
        "key_version": 0, "weight": 0.0, "partition": 0, "offset": 0,
    }  # fmt: skip
    session.execute(insert(session, Record).on_conflict_do_nothing(index_elements=["deployment", "id"]), [row])


def _empty(
    session: Session, deployment: str, request: str, seqs: Sequence[int], before: float, now: float
) -> list[int]:
    for start in range(0, len(seqs), CHUNK):
        part = seqs[start : start + CHUNK]
        _forget(session, deployment, part)
        session.execute(update(Record).where(Record.seq.in_(part)).values(**EMPTY))
        held = update(Held).where(Held.seq.in_(part), Held.ended.is_(None))
        session.execute(held.values(ended=now, ending="erased"))
    stone = _known(session, deployment, request)
    if stone is None or seqs:
        # One a wish that did something, so that each is settled and audited by itself; the first even if it did nothing.
        stone = Tombstone(
            deployment=deployment, request=request, seqs=list(seqs), versions=[], at=now, before=before, settled=False
        )
        session.add(stone)
    else:
        stone.before = max(stone.before, before)
    session.flush()
    return list(seqs)


def _forget(session: Session, deployment: str, seqs: Sequence[int]) -> None:
    """Take what only these records asked out of their blocks' sketches; how many there were stays counted."""
    gone: dict[tuple[str, int], set[str]] = defaultdict(set)
    asked = (Record.seq.in_(seqs), Record.prompt_hash != "")
    for seq, kind, prompt_hash in session.execute(select(Record.seq, Record.kind, Record.prompt_hash).where(*asked)):
        gone[kind, seq // sketch.BLOCK].add(prompt_hash)
    for (kind, block), hashes in gone.items():
        first, mine = block * sketch.BLOCK, (Record.deployment == deployment, Record.kind == kind)
        inside = Record.seq.between(first, first + sketch.BLOCK - 1)
        others = session.scalars(select(Record.prompt_hash).where(*mine, inside, Record.seq.not_in(seqs)))
        sketch.forget(session, deployment, kind, block, hashes - set(others))


def _empty_letters(session: Session, which: Any, deployment: str) -> None:
    letters = update(DeadLetter).where(which, DeadLetter.deployment == deployment)
    session.execute(letters.values(body="", user_hash=""))
