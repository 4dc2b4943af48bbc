"""Lost offsets into the audit log: a gap that ingest noticed becomes an entry, once.

Owns: that no gap stays unaudited. Refuses to know how a gap is noticed (`feedback.sources`). Called by `daemon.loop`.
"""

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from daemon.audit import log
from feedback.db import read, transact
from feedback.tables import Gap


def audit(engine: Engine, now: float) -> int:
    """Append an entry `gap` for each gap that has none yet, and return how many (`now` in unix seconds).

    Raises: Transient where the database is away, Corrupt where the log doesn't hold.
    """
    # Looking first costs no lock: a tick without a gap must not wait for a writer.
    if not read(engine, lambda session: session.scalar(select(Gap.id).where(Gap.audited.is_(False)).limit(1))):
        return 0
    return transact(engine, lambda session: _append(session, now))


def _append(session: Session, now: float) -> int:
    found = session.scalars(select(Gap).where(Gap.audited.is_(False)).order_by(Gap.id)).all()
    for gap in found:
        log.append(
            session,
            now=now,
            actor="learnd",
            action="gap",
            reason=_reason(gap),
            facts={
                "source": gap.source,
                "partition": gap.partition,
                "first": gap.first,
                "last": gap.last if gap.last >= gap.first else None,
                "noticed": round(gap.at, 3),
            },
        )
        gap.audited = True
    return len(found)


def _reason(gap: Gap) -> str:
    where = f"{gap.source}, partition {gap.partition}"
    if gap.last < gap.first:
        # A topic that was deleted and made anew: how far the old one went nobody knows any more.
        return f"what {where}, held from offset {gap.first} on was gone before it was read"
    return f"{gap.last - gap.first + 1} records of {where}, were gone before they were read"
