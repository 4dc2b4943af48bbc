"""What a dead letter may show of a refused message: its body, masked, and whose record it was.

Owns: that nothing of a person reaches the dead letter unmasked, however broken the message is. Refuses to know why it
was refused. Called by `feedback.records`.
"""

import json
import re
from typing import Any

from feedback.keys import RecordSettings, label, user_hash
from feedback.redact import Redactor
from feedback.wire import Rejected, printable

KEPT = 16_384  # characters of a refused body in the dead letter
SPARE = 512  # read beyond it, so that nothing is cut in two before it is recognised

_USER = re.compile(r'("user"\s*:\s*)("(?:[^"\\]|\\.)*+"?|[^\s,}\]]++)')
_ESCAPED = re.compile(r"\\u00([2-7][0-9a-fA-F])")
_PERSONAL = ("user", "erase")


def describe(rejected: Rejected, raw: bytes, given: Any, settings: RecordSettings) -> None:
    """Complete a refusal with its masked body, and with deployment, record and user where they can be read."""
    redactor = Redactor(settings.regions)
    rejected.message = redactor.text(printable(rejected.message))[:1000]
    rejected.field = redactor.text(printable(rejected.field))[:256]
    rejected.args = (rejected.message,)
    if given is None and rejected.reason not in ("too_large", "too_deep"):
        given = _lenient(raw)
    if given is None:
        rejected.redacted = _masked(raw, redactor)
        return
    if isinstance(given, dict):
        _name(rejected, given, redactor, settings)
    shown = redactor.tree(_hide(given, redactor, settings))
    rejected.redacted = printable(json.dumps(shown, ensure_ascii=False))[:KEPT]


def _name(rejected: Rejected, given: dict[str, Any], redactor: Redactor, settings: RecordSettings) -> None:
    deployment, record, user = (given.get(name) for name in ("deployment", "id", "user"))
    if isinstance(deployment, str) and deployment in settings.deployments:
        rejected.deployment = deployment
    if isinstance(record, str) and len(record) <= 128:
        rejected.record = printable(label(record, redactor, settings))
    if isinstance(user, str):
        rejected.user_hash = _user(user, settings)


def _hide(value: Any, redactor: Redactor, settings: RecordSettings, name: str = "") -> Any:
    """Users as keyed hashes and identifiers as they are stored, at any depth: an envelope may lie around the record."""
    if isinstance(value, dict):
        return {key: _hide(item, redactor, settings, "user" if name == "user" else key) for key, item in value.items()}
    if isinstance(value, list):
        return [_hide(item, redactor, settings, name) for item in value]
    if name == "user" and value is not None:
        return f"[user {_user(str(value), settings)[:16]}]"
    if name == "data_base64":
        return "[base64]"
    if name in ("id", "interaction", "tenant") and isinstance(value, str) and len(value) <= 256:
        return printable(label(printable(value), redactor, settings))
    return value


def _user(user: str, settings: RecordSettings) -> str:
    return user_hash(printable(user), settings.user_key)


def _lenient(raw: bytes) -> Any:
    """The value for showing only, where the reader's strictness is what refused it."""
    try:
        return json.loads(raw.decode(errors="replace"), strict=False)
    except ValueError:  # no JSON at all, or a number of more digits than int() takes
        return None


def _masked(raw: bytes, redactor: Redactor) -> str:
    head = raw[: KEPT * 4].decode(errors="replace")[: KEPT + SPARE]
    # An escape must not hide an address from the mask.
    plain = _ESCAPED.sub(lambda found: chr(int(found.group(1), 16)), head)
    return printable(redactor.text(_USER.sub(r'\1"[user]"', plain)))[:KEPT]
