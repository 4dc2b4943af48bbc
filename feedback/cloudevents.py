"""CloudEvents 1.0 around a record: structured and binary mode of the Kafka binding, unwrapped.

Owns: how an envelope is recognised and what it lends the record (id and time, where the record has none of its own).
Refuses to know the record's schema. Called by `feedback.records`.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from feedback.wire import Rejected, decode

REQUIRED = ("specversion", "id", "source", "type")


def unwrap(raw: bytes, headers: Sequence[tuple[str, bytes]], *, max_bytes: int) -> tuple[Any, dict[str, str]]:
    """The record's JSON value and the envelope's attributes (empty where there is none).

    Kafka protocol binding for CloudEvents 1.0.2, sections 3.2 (binary) and 3.3 (structured).
    Raises: Rejected where the bytes are no JSON or the envelope is not CloudEvents 1.0.
    """
    fields = {name.lower(): (value or b"").decode("utf-8", "replace") for name, value in headers}
    content = fields.get("content-type", "").split(";")[0].strip().lower()
    if content.startswith("application/cloudevents-batch"):
        raise Rejected("cloudevents", "content-type", "batches are not taken: send one event a message")
    if content.startswith("application/cloudevents") and content != "application/cloudevents+json":
        raise Rejected("cloudevents", "content-type", f"{content} is not taken: send application/cloudevents+json")
    value = decode(raw, max_bytes=max_bytes)
    if content == "application/cloudevents+json" or _is_structured(value):
        return _structured(value, max_bytes)
    if "ce_specversion" in fields or "ce_id" in fields:
        envelope = {name[3:]: text for name, text in fields.items() if name.startswith("ce_")}
        _check(envelope, "ce_")
        if content and not _is_json(content):
            raise Rejected("cloudevents", "content-type", f"{content} is not taken: send application/json")
        return value, envelope
    return value, {}


def lend(record: Mapping[str, Any], envelope: Mapping[str, str]) -> dict[str, Any]:
    """The record with `id` and `time` of its envelope where it has none of its own."""
    return {name: envelope[name] for name in ("id", "time") if name in envelope} | dict(record)


def _is_structured(value: Any) -> bool:
    return isinstance(value, dict) and "specversion" in value and ("data" in value or "data_base64" in value)


def _is_json(content: str) -> bool:
    return content in ("application/json", "text/json") or content.endswith("+json")


def _structured(value: Any, max_bytes: int) -> tuple[Any, dict[str, str]]:
    if not isinstance(value, dict):
        raise Rejected("cloudevents", "", "a structured CloudEvent is a JSON object")
    _check(value, "")
    content = value.get("datacontenttype", "application/json")
    if not isinstance(content, str) or not _is_json(content.split(";")[0].strip().lower()):
        raise Rejected("cloudevents", "datacontenttype", "the data must be application/json")
    envelope = {name: text for name, text in value.items() if isinstance(text, str) and not name.startswith("data")}
    if "data_base64" in value:
        return _from_base64(value["data_base64"], max_bytes), envelope
    if "data" not in value:
        raise Rejected("missing", "data", "required: the record itself")
    return value["data"], envelope


def _from_base64(text: Any, max_bytes: int) -> Any:
    try:
        return decode(base64.b64decode(text, validate=True), max_bytes=max_bytes)
    except (binascii.Error, TypeError, ValueError):
        raise Rejected("cloudevents", "data_base64", "not base64: send the record as an object in `data`") from None


def _check(envelope: Mapping[str, Any], prefix: str) -> None:
    for name in REQUIRED:
        found = envelope.get(name)
        if not isinstance(found, str) or not found:
            raise Rejected("cloudevents", f"{prefix}{name}", "required by CloudEvents 1.0: a string that is not empty")
    if envelope["specversion"] != "1.0":
        raise Rejected("cloudevents", f"{prefix}specversion", "only CloudEvents 1.0 is taken: send 1.0")
