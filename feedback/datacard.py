"""The card of a training set: how much of what, from where, with whose consent, and what was left out and why.

Owns: the numbers of the card. Refuses to know how records were chosen, and holds no text of users. Called by
`feedback.dataset`; read by people (`learnctl show`), the audit log and the data gate.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from feedback.examples import Line
from feedback.tables import Record

UNLICENSED = "not stated"


def left_out(session: Session, deployment: str, tenant: str, window: tuple[int, int]) -> dict[str, int]:
    """Feedback records of the window that may not teach this slot, counted by the first reason that holds."""
    columns = (Record.state, Record.fold, Record.consent, Record.tenant, Record.usable)
    rows = session.execute(
        select(*columns, func.count())
        .where(Record.deployment == deployment, Record.kind == "feedback")
        .where(Record.seq > window[0], Record.seq <= window[1])
        .group_by(*columns)
    )
    found: Counter[str] = Counter()
    for state, fold, consent, owner, usable, count in rows:
        reason = state if state != "live" else "judge_fold" if fold != "train" else _unfit(consent, owner, tenant)
        found[reason or ("" if usable else "neutral")] += count
    del found[""]
    return dict(found)


def _unfit(consent: str, owner: str, tenant: str) -> str:
    if tenant and owner != tenant:
        return "other_tenant"
    consented = consent == "shared" or (consent == "tenant" and owner == tenant)
    return "" if consented else "unconsented"


def counts(
    new: Sequence[Record], replay: Sequence[Record], anchors: Sequence[Mapping[str, Any]], lines: Sequence[Line]
) -> dict[str, Any]:
    """The counted part of a card: records by origin, signal and consent; lines by objective; sources; licences."""
    records = [*new, *replay]
    weights = [line.weight for line in lines]
    return {
        "records": {"new": len(new), "replay": len(replay), "anchor": len(anchors)},
        "lines": len(lines),
        "objectives": _tally(line.objective for line in lines),
        "origins": _tally(line.origin for line in lines),
        "signals": _tally(record.usable for record in records),
        "consent": _tally(record.consent for record in records),
        "versions": _tally(record.model_version or "unknown" for record in records),
        "sources": _sources(new, "new") + _sources(replay, "replay"),
        "licences": _tally(str(item.get("licence") or UNLICENSED) for item in anchors),
        "weights": {"least": min(weights), "most": max(weights), "sum": round(sum(weights), 6)},
    }


def told(thrown: Mapping[str, int]) -> str:
    """What was left out, as a person reads it: `12 quarantined, 3 near duplicate`."""
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(thrown.items())) or "it is empty"


def _tally(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _sources(records: Sequence[Record], origin: str) -> list[dict[str, Any]]:
    """For every topic (or file) and partition the offsets that the records span, both ends included."""
    spans: dict[tuple[str, int], list[int]] = {}
    for record in records:
        spans.setdefault((record.source, record.partition), []).append(record.offset)
    return [
        {
            "origin": origin,
            "source": source,
            "partition": partition,
            "first_offset": min(offsets),
            "last_offset": max(offsets),
            "records": len(offsets),
        }
        for (source, partition), offsets in sorted(spans.items())
    ]
