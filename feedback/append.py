"""Records into the store: duplicates told from conflicts, later signals over earlier ones, sketches, counters.

Owns: what happens to a valid record on its way into the tables. Refuses to know messages and sources beyond where a
record came from. Called by `feedback.ingest` inside its transaction.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from feedback import sketch
from feedback.records import Exposure, Feedback, question
from feedback.sources import Raw
from feedback.statements import add_rows, insert
from feedback.tables import Counter, DeadLetter, Record, Tombstone
from feedback.wire import Rejected

Item = tuple[Feedback | Exposure, Raw]
Name = tuple[str, str]  # deployment, id

STORED, DUPLICATE = "stored", "duplicate"
CHUNK = 500  # names a query: databases limit the parameters of one statement


def put(
    session: Session, items: Sequence[Item], now: float, slices: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> list[str | Rejected]:
    """Store the records that are new; for each item, in order: `stored`, `duplicate`, or why it was refused.

    `slices`: of each deployment, the columns whose values are sketched one by one.
    """
    erased = _erased_users(session, items)
    first: dict[Name, Item] = {}
    for record, raw in items:
        if not _came_too_late(record, erased):
            first.setdefault((record.deployment, record.id), (record, raw))
    seqs = _insert(session, first, now)
    known = _known(session, [name for name in first if name not in seqs])
    fresh = [(seqs[name], record) for name, (record, _) in first.items() if name in seqs]
    _supersede(session, fresh)
    day = sketch.weekday(now)
    sketch.add(session, [_observe(seq, record, day, slices.get(record.deployment, ())) for seq, record in fresh])
    return [_fate(record, first, known, erased) for record, _ in items]


def _fate(
    record: Feedback | Exposure,
    first: Mapping[Name, Item],
    known: Mapping[Name, tuple[str, str]],
    erased: Mapping[tuple[str, str], float],
) -> str | Rejected:
    name = (record.deployment, record.id)
    if _came_too_late(record, erased):
        return _erased(record)
    if name in known:
        content, state = known[name]
        return _erased(record) if state == "erased" else _same(record, content)
    return STORED if first[name][0] is record else _same(record, first[name][0].content_hash)


def _came_too_late(record: Feedback | Exposure, erased: Mapping[tuple[str, str], float]) -> bool:
    return record.time <= erased.get((record.deployment, record.user_hash), float("-inf"))


def bump(session: Session, counts: Mapping[tuple[str, str], int]) -> None:
    """Add to the running counts, keyed by deployment and name."""
    rows = [
        {"deployment": deployment, "name": name, "value": value}
        for (deployment, name), value in sorted(counts.items())
        if value
    ]
    if rows:
        statement = insert(session, Counter)
        grown = Counter.__table__.c.value + statement.excluded.value
        session.execute(
            statement.on_conflict_do_update(index_elements=["deployment", "name"], set_={"value": grown}), rows
        )


def bury(session: Session, refused: Iterable[tuple[Rejected, Raw]], now: float) -> None:
    """Keep refused messages as dead letters, to be published by the outbox."""
    rows = [
        {
            "deployment": why.deployment, "reason": why.reason, "field": why.field, "message": why.message,
            "body": why.redacted, "source": raw.source, "topic_id": raw.topic_id, "partition": raw.partition,
            "offset": raw.offset, "at": now, "published": None, "record": why.record, "user_hash": why.user_hash,
        }
        for why, raw in refused
    ]  # fmt: skip
    if rows:
        add_rows(session, DeadLetter, rows)


def _insert(session: Session, first: Mapping[Name, Item], now: float) -> dict[Name, int]:
    if not first:
        return {}
    rows = [_row(record, raw, now) for record, raw in first.values()]
    given = add_rows(session, Record, rows, returning=(Record.seq, Record.deployment, Record.id))
    return {(deployment, id): seq for seq, deployment, id in given}


def _row(record: Feedback | Exposure, raw: Raw, now: float) -> dict[str, Any]:
    return {
        "deployment": record.deployment, "id": record.id, "kind": record.kind, "tenant": record.tenant,
        "interaction": record.interaction, "time": record.time, "ingested": now,
        "model_version": record.model_version, "fold": record.fold, "usable": record.usable, "rating": record.rating,
        "consent": record.consent, "user_hash": record.user_hash, "key_version": record.key_version,
        "content_hash": record.content_hash, "prompt_hash": record.prompt_hash, "commitment": record.commitment,
        "commitment_key": record.commitment_key, "weight": 1.0, "state": "live", "features": record.features,
        "sampling": record.sampling, "body": record.body, "source": raw.source, "partition": raw.partition,
        "offset": raw.offset,
    }  # fmt: skip


def _known(session: Session, names: Sequence[Name]) -> dict[Name, tuple[str, str]]:
    """Content hash and state of the records that stood there already."""
    found: dict[Name, tuple[str, str]] = {}
    ids: dict[str, list[str]] = defaultdict(list)
    for deployment, id in names:
        ids[deployment].append(id)
    for deployment, wanted in ids.items():
        for start in range(0, len(wanted), CHUNK):
            query = select(Record.id, Record.content_hash, Record.state).where(
                Record.deployment == deployment, Record.id.in_(wanted[start : start + CHUNK])
            )
            found |= {(deployment, id): (content, state) for id, content, state in session.execute(query)}
    return found


def _same(record: Feedback | Exposure, content_hash: str) -> str | Rejected:
    if record.content_hash == content_hash:
        return DUPLICATE
    why = Rejected("conflict", "id", "is stored already with other content: give a changed record an id of its own")
    return _named(why, record)


def _erased(record: Feedback | Exposure) -> Rejected:
    why = Rejected("erased", "id", "was erased before it arrived, by its id or by its user: don't send it again")
    return _named(why, record)


def _named(why: Rejected, record: Feedback | Exposure) -> Rejected:
    why.deployment, why.record = record.deployment, record.id
    if why.reason != "erased":  # of an erased record not even the masked content is kept
        why.user_hash = record.user_hash
        why.redacted = shown(record)
    return why


def shown(record: Feedback | Exposure) -> str:
    """A valid record's masked content for the dead letter."""
    kept = {"id": record.id, "kind": record.kind, "deployment": record.deployment, "rating": record.rating}
    return json.dumps(kept | {"features": record.features} | record.body, ensure_ascii=False)[:16_384]


def _erased_users(session: Session, items: Sequence[Item]) -> dict[tuple[str, str], float]:
    """When each user of these records was erased, by the time that the request carried."""
    hashes = sorted({record.user_hash for record, _ in items if record.user_hash})
    found: dict[tuple[str, str], float] = {}
    for start in range(0, len(hashes), CHUNK):
        query = select(Tombstone.deployment, Tombstone.request, Tombstone.before).where(
            Tombstone.request.in_([f"user:{one}" for one in hashes[start : start + CHUNK]])
        )
        for deployment, request, before in session.execute(query):
            key = (deployment, request.removeprefix("user:"))
            found[key] = max(before, found.get(key, float("-inf")))
    return found


def _supersede(session: Session, fresh: Sequence[tuple[int, Feedback | Exposure]]) -> None:
    """Of several signals by one user on one interaction the latest to arrive counts; the others stay as history."""
    newest: dict[tuple[str, str, str], int] = {}
    for seq, record in fresh:
        if record.kind == "feedback" and record.interaction and record.user_hash:
            key = (record.deployment, record.interaction, record.user_hash)
            newest[key] = max(seq, newest.get(key, 0))
    interactions = sorted({interaction for _, interaction, _ in newest})
    older: list[int] = []
    for start in range(0, len(interactions), CHUNK):
        query = select(Record.seq, Record.deployment, Record.interaction, Record.user_hash).where(
            Record.deployment.in_(sorted({deployment for deployment, _, _ in newest})),
            Record.interaction.in_(interactions[start : start + CHUNK]),
            Record.kind == "feedback",
            Record.state == "live",
        )
        older += [
            seq
            for seq, deployment, interaction, user in session.execute(query)
            if seq < newest.get((deployment, interaction, user), 0)
        ]
    if older:
        statement = update(Record.__table__).where(Record.__table__.c.seq == bindparam("older"))  # type: ignore[arg-type]
        session.execute(statement.values(state="superseded"), [{"older": seq} for seq in older])


def _observe(seq: int, record: Feedback | Exposure, day: str, slices: tuple[str, ...]) -> sketch.Observation:
    messages = record.body.get("messages")
    prompt = question(messages) if messages else None
    columns = sketch.columns(record.features, prompt, record.body.get("response"), record.rating)
    version, tenant = record.model_version, record.tenant
    return sketch.Observation(
        record.deployment, seq, record.kind, columns, day, version, tenant, slices, record.prompt_hash
    )
