"""What the tests of `feedback` share: a valid record to change, settings, and a database of either kind."""

import json
from collections.abc import Sequence
from typing import Any

from feedback import sketch, windows
from feedback.records import DeploymentRules, RecordSettings

NOW = 1_795_000_000.0  # 2026-11-18

SETTINGS = RecordSettings(
    deployments={"bot": DeploymentRules("shared"), "strict": DeploymentRules(None)},
    user_key=b"user key",
    key_version=1,
    fold_key=b"fold key",
)


def valid(**changes: Any) -> dict[str, Any]:
    """A valid feedback record with fields changed; `...` leaves one out."""
    record = {
        "id": "r-1",
        "time": "2026-11-17T03:12:00Z",
        "deployment": "bot",
        "messages": [{"role": "user", "content": "How do I top up?"}],
        "response": "In the app.",
        "rating": 1,
    } | changes
    return {name: value for name, value in record.items() if value is not ...}


def wire(**changes: Any) -> bytes:
    """The same as bytes."""
    return json.dumps(valid(**changes)).encode()


def sketched(rows: Sequence[dict[str, Any]], kind: str = "inputs", days: Sequence[str] = ()) -> windows.Window:
    """A window of rows given by their columns; of outcomes each has a `rating`, and its words are its slices."""
    total: dict[str, dict[str, dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        day = days[number] if days else "0"
        for name, value in (row | {sketch.RECORDS: 1.0}).items() if kind == "inputs" else ():
            sketch.count(total.setdefault(name, {}).setdefault(day, {"n": 0}), value)
        if kind == "outcomes":
            words = {name: value for name, value in row.items() if isinstance(value, str)}
            sketch.rate(total.setdefault("rating", {}).setdefault(day, {"n": 0}), row["rating"], words)
    frozen = {"schema": 2, "kind": kind, "records": "feedback", "first": 0, "last": 9, "n": len(rows)}
    return windows.thaw(frozen | {"columns": total})
