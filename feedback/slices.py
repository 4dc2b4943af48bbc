"""Slices of a window: the records of one tenant, of one language, of one value of a word column.

Owns: how slices lie in the sketches, which of them are worth looking at, and what of them a window reads. Refuses to
compare (`feedback.drift`). Called by `feedback.windows`.

Ingest keeps the columns of every slice that a policy names (`feedback.sketch`), and the ratings of every word. What
nearly all records belong to is no slice: it would only say again what all of them say. Of very many, the largest are
looked at; how large a slice is says nothing about whether it drifted, so the choice costs no error.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, select
from sqlalchemy.orm import Session

from feedback import counts, sketch
from feedback.counts import Days
from feedback.tables import Sketch

Columns = dict[str, dict[str, Any]]  # by column and weekday
Part = tuple[int, str, str, Days]  # a block, a slice, one of its columns, the counts

FEW = 20
NEARLY_ALL = 0.9
MOST = 64
PARSED = 200  # rows


def parts(session: Session, deployment: str, records: str, inside: ColumnElement[bool]) -> Iterator[Part]:
    """The counts of every slice of the inputs that are made of `records`, over the blocks that `inside` names."""
    mine = (Sketch.deployment == deployment, Sketch.kind == records + sketch.SLICED, inside)
    query = select(Sketch.block, Sketch.column, cast(Sketch.counts, Text)).where(*mine).order_by(Sketch.block)
    for page in session.connection().execute(query).partitions(PARSED):
        parsed = json.loads(f"[{','.join(text for _, _, text in page)}]")
        for (block, name, _), columns in zip(page, parsed, strict=True):
            for column, days in columns.items():
                yield block, name, column, days


def rated(block: int, rating: Days) -> Iterator[Part]:
    """The ratings of one block, slice by slice."""
    for name, days in of_ratings(rating).items():
        yield block, name, sketch.RATING, days


def of_ratings(days: Days) -> dict[str, dict[str, dict[str, Any]]]:
    """The ratings of every slice by the name of the slice ("tenant=acme") and weekday."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for day, flat in days.items():
        for name, value in flat.items():
            if name[0] in "+-" and not name.lstrip("-").isdecimal():
                one = found.setdefault(name[1:], {}).setdefault(day, {"n": 0, "good": 0, "bad": 0})
                one["good" if name[0] == "+" else "bad"] += value
                one["n"] += value
    return found


def without(days: Days) -> dict[str, dict[str, Any]]:
    """Ratings without their slices."""
    return {
        day: {name: n for name, n in flat.items() if name[0] not in "+-" or name.lstrip("-").isdecimal()}
        for day, flat in days.items()
    }


def size(columns: Mapping[str, Days]) -> float:
    """How many records, or ratings that aren't neutral, these counts hold."""
    days = columns.get(sketch.RATING) or columns.get(sketch.RECORDS) or {}
    return sum(counts.judged(flat) for flat in days.values())


def worth(sizes: Mapping[str, float], whole: float) -> Collection[str]:
    """The slices to look at, by their sizes and that of all: the largest, but none of a few records or of nearly all."""
    enough = [name for name, n in sizes.items() if FEW <= n <= NEARLY_ALL * whole]
    return set(sorted(enough, key=lambda name: (-sizes[name], name))[:MOST])
