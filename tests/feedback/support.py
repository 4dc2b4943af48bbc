"""What the tests of `feedback` share: a valid record to change, settings, and a database of either kind."""

import json
from typing import Any

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
