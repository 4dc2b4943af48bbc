"""Chosen records -> a hashed, versioned training file with a data card: what a training method is given to read.

Owns: which records may teach, the seeded draw, the lines of the file, and that building twice is building once. Refuses
to know methods (a line says what it teaches, not how) and thresholds (`policies.mixture` gives the quotas). Called by
`daemon.act`, before a training job starts.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from feedback import datacard, examples, replay
from feedback.near import THRESHOLD, Near, prompt_text
from feedback.tables import DatasetRow, Record
from feedback.topics import topic
from policies.actions import Mixture
from policies.errors import Corrupt, Refused

LOOKED = 3  # times the quota of replay: how many old records are drawn for their slices to be balanced
CHUNK = 500
TEACHES = ("correction", "pair", "positive", "negative")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A training file: `hash` is the SHA-256 of `path` in hex, `seqs` the records in it, `card` what lies beside it."""

    hash: str
    path: Path
    card: dict[str, Any]
    seqs: tuple[int, ...]


def build(
    session: Session,
    *,
    deployment: str,
    tenant: str,
    window: tuple[int, int],
    mixture: Mixture,
    anchors: Sequence[dict[str, Any]],
    folder: Path,
    now: float,
    exclude_near: Iterable[str],
    half_life_days: float = 180.0,
    near_threshold: float = THRESHOLD,
) -> Dataset:
    """Draw, write `folder`/<hash>/train.jsonl and card.json atomically, and keep the dataset's row; idempotent.

    `window` is (first, last] of ingest sequence; `anchors` are items with `messages`, `reference` and `licence`;
    a record whose prompt nearly is one of `exclude_near` is thrown out. A record's weight halves in `half_life_days`
    before the newest record of the set, not before `now`: the same inputs and seed give the same hash on any day.
    Raises: Refused where nothing is left to learn from, Corrupt where the file of that hash was changed on disk.
    """
    thrown = Counter(datacard.left_out(session, deployment, tenant, window))
    draw = _Draw(session, may_teach(deployment, tenant), mixture, Near(exclude_near, near_threshold), thrown)
    drawn = _new(draw, window)
    old = _agreed(_replay(draw, window[0], {record.prompt_hash for record in drawn} - {""}), thrown)
    new = _agreed(drawn, thrown)
    items = _anchors(draw, anchors)
    if not new:
        raise Refused(
            f"no record of {window[0]}-{window[1]} is left to learn from: {datacard.told(+thrown)}",
            hint="learnctl dead-letters and learnctl status show what became of the feedback",
        )
    latest = max(record.time for record in chain(new, old))
    lines = [
        *chain.from_iterable(examples.of_record(r, "new", latest, half_life_days) for r in new),
        *chain.from_iterable(examples.of_record(r, "replay", latest, half_life_days) for r in old),
        *(examples.of_anchor(item) for item in items),
    ]
    card = {
        **{"schema": 1, "deployment": deployment, "tenant": tenant, "window": list(window)},
        **{"quotas": asdict(mixture), "seed": mixture.seed, "half_life_days": half_life_days, "weights_as_of": latest},
        **datacard.counts(new, old, items, lines),
        "near_threshold": near_threshold,
        "thrown_out": dict(sorted((+thrown).items())),
    }
    written = _write(folder, lines, card, sorted(r.seq for r in chain(new, old)))
    _remember(session, written, deployment, now)
    return written


def may_teach(deployment: str, tenant: str) -> ColumnElement[bool]:
    """The records that may teach a slot: live, of the `train` fold, usable, and consented to for this slot.

    The base learns from `shared` records and from `tenant` ones that belong to no tenant, a tenant's slot from its own.
    """
    consented = (
        and_(Record.tenant == tenant, Record.consent.in_(("tenant", "shared")))
        if tenant
        else or_(Record.consent == "shared", and_(Record.tenant == "", Record.consent == "tenant"))
    )
    return and_(
        Record.deployment == deployment,
        Record.kind == "feedback",
        Record.fold == "train",
        Record.state == "live",
        Record.usable.in_(TEACHES),
        consented,
    )


@dataclass(frozen=True, slots=True)
class _Draw:
    """One draw: whose records, how many, what may not be near, and the tally of what was thrown out."""

    session: Session
    mine: ColumnElement[bool]
    mixture: Mixture
    forbidden: Near
    thrown: Counter[str]


def _new(draw: _Draw, window: tuple[int, int]) -> list[Record]:
    """All of the window, or a seeded sample of as many as the quota allows."""
    query = select(Record.seq).where(draw.mine, Record.seq > window[0], Record.seq <= window[1])
    drawn = replay.shuffled(draw.session.scalars(query), draw.mixture.seed)
    before = draw.thrown.total()
    kept = list(islice(_clean(_fetch(draw.session, drawn), draw), draw.mixture.new))
    draw.thrown["over_quota"] += len(drawn) - len(kept) - (draw.thrown.total() - before)  # not even looked at
    return sorted(kept, key=lambda record: record.seq)


def _replay(draw: _Draw, first: int, answered_anew: set[str]) -> list[Record]:
    """Older records, one from every span of history and every slice in turn, until the quota is full.

    Slices are looked at in no more than `LOOKED` times the quota: the cost follows the set, not history.
    """
    seqs = list(draw.session.scalars(select(Record.seq).where(draw.mine, Record.seq <= first)))
    if not seqs or not draw.mixture.replay:
        return []
    seed, looked = draw.mixture.seed, LOOKED * draw.mixture.replay
    turns = list(replay.in_turn([iter(replay.shuffled(span, seed)) for span in replay.spans(seqs)]))
    pool = [
        replay.Old(record.seq, topic(prompt_text(record.body.get("messages") or [])))
        for record in _fetch(draw.session, turns[:looked])
    ]
    drawn = [*replay.order(pool, seed), *turns[looked:]]
    # An old answer to a question that was answered anew would teach the old one again.
    fresh = (record for record in _fetch(draw.session, drawn) if record.prompt_hash not in answered_anew)
    return sorted(islice(_clean(fresh, draw), draw.mixture.replay), key=lambda record: record.seq)


def _anchors(draw: _Draw, anchors: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    offered = list(anchors if draw.mixture.anchor else ())
    usable = [item for item in offered if examples.prompt(item) and item.get("reference")]
    near = draw.forbidden.hits([prompt_text(item["messages"]) for item in usable])
    draw.thrown["anchor_without_reference"] += len(offered) - len(usable)
    draw.thrown["near_duplicate"] += sum(near)
    clean = [item for item, is_near in zip(usable, near, strict=True) if not is_near]
    return replay.shuffled(clean, draw.mixture.seed, lambda item: json.dumps(item, sort_keys=True))[
        : draw.mixture.anchor
    ]


def _clean(records: Iterator[Record], draw: _Draw) -> Iterator[Record]:
    while chunk := list(islice(records, CHUNK)):
        near = draw.forbidden.hits([prompt_text(record.body.get("messages") or []) for record in chunk])
        for record, is_near in zip(chunk, near, strict=True):
            if is_near:
                draw.thrown["near_duplicate"] += 1
            elif record.weight <= 0:
                draw.thrown["unbelieved"] += 1
            elif not examples.prompt(record.body) or not any(examples.of_record(record, "new", record.time, 1.0)):
                draw.thrown["no_content"] += 1
            else:
                yield record


def _agreed(records: Sequence[Record], thrown: Counter[str]) -> list[Record]:
    """The records without ratings of one answer to one prompt that go both ways: the side that is believed less goes,
    and of the other, the least believed first, no more than that weighs. What most say is still learned, and many who are
    hardly believed take nothing away from one who is.
    """
    rated: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in records:
        if record.usable in ("positive", "negative"):
            key = json.dumps(examples.prompt(record.body)), str(record.body.get("response") or "")
            rated.setdefault(key, {"positive": [], "negative": []})[record.usable].append(record)
    gone = set[int]()
    for sides in rated.values():
        less, more = sorted(sides.values(), key=lambda side: sum(one.weight for one in side))
        left = sum(one.weight for one in less) + 1e-9
        gone |= {one.seq for one in less}
        for one in sorted(more, key=lambda one: (one.weight, one.seq)):
            left -= one.weight
            if less and left >= 0:
                gone.add(one.seq)
    thrown["contradicting"] += len(gone)
    return [record for record in records if record.seq not in gone]


def _fetch(session: Session, seqs: Sequence[int]) -> Iterator[Record]:
    """The records in the given order, a chunk at a time, so that a full quota stops the reading."""
    for start in range(0, len(seqs), CHUNK):
        wanted = seqs[start : start + CHUNK]
        found = {record.seq: record for record in session.scalars(select(Record).where(Record.seq.in_(wanted)))}
        yield from (found[seq] for seq in wanted if seq in found)


def _write(folder: Path, lines: Sequence[examples.Line], card: dict[str, Any], seqs: Sequence[int]) -> Dataset:
    names = [item.name for item in fields(examples.Line)]  # asdict would copy every message
    rows = ({name: getattr(line, name) for name in names} for line in lines)
    data = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows).encode()
    digest = sha256(data).hexdigest()
    final = folder / digest
    if not (final / "card.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        whole = json.dumps({"hash": digest, **card}, indent=2, ensure_ascii=False) + "\n"
        _publish(folder, final, {"train.jsonl": data, "card.json": whole.encode()})
    if sha256((final / "train.jsonl").read_bytes()).hexdigest() != digest:
        raise Corrupt(
            f"{final / 'train.jsonl'} was changed after it was written", hint="move the folder away; it is built again"
        )
    return Dataset(digest, final / "train.jsonl", json.loads((final / "card.json").read_text()), tuple(seqs))


def _publish(folder: Path, final: Path, files: dict[str, bytes]) -> None:
    """Write beside, then rename: the folder is there as a whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as draft:
        whole = Path(draft) / "whole"
        whole.mkdir()
        for name, data in files.items():
            _durable(whole / name, data)
        try:
            whole.rename(final)
        except OSError:
            if not (final / "card.json").is_file():
                raise  # else another process was quicker, and the same hash is the same file


def _durable(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remember(session: Session, written: Dataset, deployment: str, now: float) -> None:
    if session.get(DatasetRow, written.hash) is None:
        row = DatasetRow(
            hash=written.hash, deployment=deployment, created=now, card=written.card, seqs=list(written.seqs)
        )
        session.add(row)
        session.flush()
