"""A seeded draw of rows out of a window: their columns for Evidently, their questions for an encoder.

Owns: which rows are drawn and how few are read for it. Refuses to know sketches and detectors. Called by
`feedback.windows`, and by `daemon.drifting` for the questions.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from feedback import sketch
from feedback.records import question
from feedback.tables import Record

CHUNK = 500

Span = tuple[int, int]
Where = Sequence[ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class Question:
    """What one record asked, and on which weekday it came in."""

    seq: int
    day: str
    text: str


@dataclass(frozen=True, slots=True)
class Vector:
    """The same as an encoder reads it: `values` is (dimensions,)."""

    seq: int
    day: str
    values: NDArray[np.float64]


def columns(row: Record) -> dict[str, sketch.Value]:
    """A stored record's columns, as ingest saw them."""
    messages = row.body.get("messages")
    prompt = question(messages) if messages else None
    return sketch.columns(row.features, prompt, row.body.get("response"), row.rating)


def rows(session: Session, where: Where, span: Span, size: int, seed: int) -> Iterator[Record]:
    """Up to `size` records of (first, last], in order of sequence. A span far wider than that is probed, not read."""
    chosen = _chosen(session, where, span, size, seed)
    for start in range(0, len(chosen), CHUNK):
        query = select(Record).where(Record.seq.in_(chosen[start : start + CHUNK])).order_by(Record.seq)
        yield from session.scalars(query)


def questions(session: Session, where: Where, span: Span, size: int, seed: int) -> list[Question]:
    """What up to `size` records of (first, last] asked; those that kept no text are left out."""
    found = []
    for row in rows(session, where, span, size, seed):
        text = question(row.body["messages"]) if row.body.get("messages") else ""
        if text.strip():
            found.append(Question(row.seq, sketch.weekday(row.ingested), text))
    return found


def _chosen(session: Session, where: Where, span: Span, size: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    numbers = range(span[0] + 1, span[1] + 1)
    if len(numbers) <= 8 * size:
        found = session.scalars(select(Record.seq).where(*where, Record.seq > span[0], Record.seq <= span[1]))
        seqs = sorted(found)
        return seqs if len(seqs) <= size else sorted(draw.sample(seqs, size))
    probes, chosen = draw.sample(numbers, 8 * size), list[int]()
    for start in range(0, len(probes), CHUNK):
        hit = set(session.scalars(select(Record.seq).where(*where, Record.seq.in_(probes[start : start + CHUNK]))))
        chosen += [seq for seq in probes[start : start + CHUNK] if seq in hit]
        if len(chosen) >= size:
            break
    return sorted(chosen[:size])
