"""What drift reports tell a person: which columns, since when, and a few records of the new kind.

Owns: that telling. Refuses to change a row, and to keep or log a user's words. Called by `daemon.views`.
"""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from daemon import baselines
from daemon.tables import Baseline, DriftRow, Slot
from feedback import store, typical, windows
from feedback.drift import meaning

FEW = 4
SLICES = 4  # that are shown by records of their own
RATING = windows.RATING


def reports(session: Session, slot: Slot, texts: bool) -> list[dict[str, Any]]:
    """The newest report of each detector; with `texts`, an alarm has typical records with their prompts."""
    newest = select(func.max(DriftRow.id)).where(DriftRow.slot == slot.id).group_by(DriftRow.detector)
    rows = session.scalars(select(DriftRow).where(DriftRow.id.in_(newest)).order_by(DriftRow.detector))
    return [
        {
            "deployment": slot.deployment,
            "tenant": slot.tenant,
            **row.report,
            "at": row.at,
            "report": next((f for f in row.report.get("files", []) if str(f).endswith(".html")), None),
            "columns": [_column(session, column, row.at) for column in row.report.get("columns", [])],
            "typical": _typical(session, slot, row) if texts else [],
        }
        for row in rows
    ]


def _column(session: Session, column: dict[str, Any], at: float) -> dict[str, Any]:
    """The column with `since` as it is stored (a sequence number) and `since_at`, unix seconds."""
    since = column.get("since", 0)
    return {**column, "since": since, "since_at": store.ingested(session, since, at) if since else None}


def _typical(session: Session, slot: Slot, row: DriftRow) -> list[dict[str, Any]]:
    """Records of the alarm's window that are most unlike the reference it was compared with, by kind and slice.

    Evidence knows no beginning of a drift (`since`) and repeats what the cheap look has told: it has none, nor has the
    report on meaning, which the cheap one takes over. A slice has records of its own where it alone drifted.
    """
    drifted = [column for column in row.report.get("columns", []) if column.get("since")]
    frozen = _compared(session, slot, row) if drifted and row.detector != meaning.NAME else None
    if frozen is None:
        return []
    found = []
    for column in drifted:
        if column.get("typical"):
            told = typical.named(session, slot.deployment, column["typical"], FEW)
            found += [{"kind": "inputs", "slice": "", "column": column["column"], **record} for record in told]
    for kind in ("inputs", "outcomes"):
        reference = frozen if kind == "inputs" else baselines.newest(session, slot.id, kind, frozen.version)
        if reference is None or row.report["kind"] not in (kind, "both"):
            continue
        held, last = baselines.window_of(reference), int(row.report["current"][1])
        for slice, columns in _apart(drifted, kind).items():
            known = held.slices.get(slice) if slice else held
            if known is None:
                continue
            first = min(int(column["since"]) for column in columns) - 1 if slice else int(row.report["current"][0])
            where = (session, slot.deployment, kind, first, last)
            current = windows.window(*where, version=frozen.version, slice=slice)
            names = [column["column"].removesuffix(f"[{slice}]") for column in columns]
            told = typical.records(session, slot.deployment, known, current, names, FEW, frozen.version)
            found += [{"kind": kind, "slice": slice, **record} for record in told]
    return found


def _apart(drifted: list[dict[str, Any]], kind: str) -> dict[str, list[dict[str, Any]]]:
    """The drifted columns of that kind by their slice ("" is all records); of slices those that drifted alone."""
    mine = [column for column in drifted if (column["column"].partition("[")[0] == RATING) == (kind == "outcomes")]
    everywhere = {column["column"] for column in mine if not column.get("slice")}
    found: dict[str, list[dict[str, Any]]] = {}
    for column in mine:
        slice = column.get("slice", "")
        if not slice or column["column"].removesuffix(f"[{slice}]") not in everywhere:
            found.setdefault(slice, []).append(column)
    return dict(sorted(found.items())[:SLICES])


def _compared(session: Session, slot: Slot, row: DriftRow) -> Baseline | None:
    """The inputs reference that the report was made against: it stays when another version is promoted."""
    mine = (Baseline.slot == slot.id, Baseline.kind.in_(("inputs", "inputs" + baselines.GROWN)))
    query = select(Baseline).where(*mine, Baseline.first == row.report["reference"][0], Baseline.at <= row.at)
    return session.scalar(query.order_by(Baseline.id.desc()).limit(1))
