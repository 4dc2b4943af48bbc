"""A few records that show a drift: those of a window that are most unlike the reference.

Owns: which records these are. Refuses to keep them: their texts are read when a person asks, so that an erasure needs no
second place. Called by `daemon.views`.
"""

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from feedback import sketch
from feedback.records import question
from feedback.tables import Record
from feedback.windows import Window

READ = 2000  # newest records of the window that are looked at


def records(
    session: Session, deployment: str, reference: Window, current: Window, drifted: Sequence[str], n: int, version: str
) -> list[dict[str, Any]]:
    """Up to `n` records of `current`, most typical of what is new first: `id`, `seq`, `ingested`, `prompt`, `columns`.

    Each is scored by Σ log(share now / share before) of its bins in the `drifted` columns, the log-likelihood ratio of
    new against old (Neyman & Pearson 1933); of outcomes they are the bad ratings of `version`. `columns` are its values in
    the drifted ones. Where the windows are of a slice, only its records. Prompts are redacted, as they are stored. Never a
    record of the judge fold: who reads it may teach it; nor one that was erased or is held back.
    """
    outcomes = current.kind == "outcomes"
    query = _showable(deployment).where(
        Record.kind == current.records, Record.seq > current.first, Record.seq <= current.last
    )
    if outcomes:
        query = query.where(Record.model_version == version, Record.rating < -sketch.NEUTRAL)
    name, _, value = current.slice.partition("=")
    if name == sketch.TENANT:
        query = query.where(Record.tenant == value)
    found: dict[str, tuple[float, dict[str, Any]]] = {}
    for row in session.scalars(query.order_by(Record.seq.desc()).limit(READ)):
        prompt = question(row.body["messages"]) if row.body.get("messages") else ""
        values = sketch.columns(row.features, prompt or None, row.body.get("response"), None)
        if name not in ("", sketch.TENANT) and values.get(name) != value:
            continue
        score = 1.0 if outcomes else _unlike(values, reference, current, drifted)
        shown = {name: values[name] for name in drifted if name in values}
        told = {"id": row.id, "seq": row.seq, "ingested": row.ingested, "prompt": prompt, "columns": shown}
        if score > 0 and score > found.get(prompt, (0.0, {}))[0]:
            found[prompt] = (score, told)
    best = sorted(found.values(), key=lambda one: (-one[0], -one[1]["seq"]))
    return [told for _, told in best[:n]]


def named(session: Session, deployment: str, seqs: Sequence[int], n: int) -> list[dict[str, Any]]:
    """The same of up to `n` of the records that a detector has named, in its order; each prompt once."""
    rows = {row.seq: row for row in session.scalars(_showable(deployment).where(Record.seq.in_(seqs)))}
    found: dict[str, dict[str, Any]] = {}
    for row in (rows[seq] for seq in seqs if seq in rows):
        prompt = question(row.body["messages"]) if row.body.get("messages") else ""
        told = {"id": row.id, "seq": row.seq, "ingested": row.ingested, "prompt": prompt, "columns": {}}
        found.setdefault(prompt, told)
    return list(found.values())[:n]


def _showable(deployment: str) -> Select[Record]:
    return select(Record).where(
        Record.deployment == deployment, Record.fold == "train", Record.state.in_(("live", "superseded"))
    )


def _unlike(values: dict[str, sketch.Value], reference: Window, current: Window, drifted: Sequence[str]) -> float:
    score = 0.0
    for name in drifted:
        if name not in values or name not in reference.columns or name not in current.columns:
            continue
        value = values[name]
        key = f"={value}" if isinstance(value, str) else str(sketch.number_bin(float(value)))
        before, now = reference.columns[name], current.columns[name]
        score += math.log((now.bins.get(key, 0) + 0.5) / (now.n + 1)) - math.log(
            (before.bins.get(key, 0) + 0.5) / (before.n + 1)
        )
    return score
