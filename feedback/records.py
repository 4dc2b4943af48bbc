"""The wire schema, record v1: bytes from a source to a validated, masked value that may be stored.

Owns: what a record is, what it teaches, its fold, commitment and content hash. Refuses to know tables and sources.
Called by `feedback.ingest` for each message, outside its transaction.
"""

import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from feedback import cloudevents, fields
from feedback.keys import DeploymentRules, RecordSettings, keyed, label, user_hash
from feedback.redact import Redactor, is_card
from feedback.refusals import describe
from feedback.wire import Rejected, canonical

__all__ = [
    "DeploymentRules", "Erase", "Exposure", "Feedback", "Parsed", "RecordSettings", "Rejected", "commit", "normalise",
    "parse", "question", "user_hash",
]  # fmt: skip

NEUTRAL = 0.2
ERASED_AT_ONCE = 10_000
CONSENTS = ("none", "tenant", "shared")
_BETWEEN = re.compile(r"[\W_]+")
SIGNALS = ("rating", "correction", "preferred", "rejected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is stored of a record: the columns of `feedback.tables.Record` that the record itself decides."""

    kind: ClassVar[str]
    id: str
    deployment: str
    time: float
    tenant: str = ""
    interaction: str = ""
    model_version: str = ""
    fold: str
    usable: str = ""
    rating: float | None = None
    consent: str = "none"
    user_hash: str = ""
    key_version: int = 1
    content_hash: str
    prompt_hash: str = ""
    commitment: str
    commitment_key: str = field(repr=False)
    features: dict[str, Any]
    sampling: float | None = None
    body: dict[str, Any]


class Feedback(Stored):
    """A signal of a user on an answer."""

    __slots__ = ()
    kind = "feedback"


class Exposure(Stored):
    """Telemetry of one answer, rated or not."""

    __slots__ = ()
    kind = "exposure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase:
    """A wish to erase records by id or by user (the keyed hashes under every key that is known)."""

    id: str
    deployment: str
    time: float
    ids: tuple[str, ...] = ()
    user_hashes: tuple[str, ...] = ()


Parsed = Feedback | Exposure | Erase


def parse(raw: bytes, headers: Sequence[tuple[str, bytes]], settings: RecordSettings, now: float) -> Parsed:
    """One message as a record, masked and ready to be stored. `now` in unix seconds.

    Raises: Rejected, with a reason code, the field, what would be right, and a masked body for the dead letter.
    """
    given: Any = None
    try:
        given, envelope = cloudevents.unwrap(raw, headers, max_bytes=settings.max_bytes)
        if not isinstance(given, dict):
            raise Rejected("type", "", f"is {fields.kind_of(given)}: send one JSON object")
        given = cloudevents.lend(given, envelope)
        return _record(given, envelope, settings, now)
    except Rejected as rejected:
        describe(rejected, raw, given, settings)
        raise


def normalise(text: str) -> str:
    """A question as folds compare it: NFKC, case folded, letters and digits only, single spaces (UAX #15)."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _BETWEEN.sub(" ", plain).strip() or plain


def question(messages: Sequence[Mapping[str, str]]) -> str:
    """What was asked: the user's last message, or all contents where none is the user's."""
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return asked[-1] if asked else "\n".join(message["content"] for message in messages)


def commit(key: str, *, deployment: str, id: str, time: float, rating: float | None, body: Mapping[str, Any]) -> str:
    """The commitment to a record's content under its own random key: says nothing once the key is destroyed."""
    content = canonical([deployment, id, time, rating, dict(body)])
    return hmac.digest(bytes.fromhex(key), content, "sha256").hex()


@dataclass(frozen=True, slots=True)
class _Message:
    """One message on its way through: `given` as it came, `left` what no reader has taken yet."""

    given: dict[str, Any]
    left: dict[str, Any]
    envelope: Mapping[str, str]
    id: str
    deployment: str
    time: float
    redactor: Redactor
    settings: RecordSettings

    def label(self, name: str) -> str:
        """An optional identifier, without personal data in it."""
        return label(fields.text(self.left, name, longest=256) or "", self.redactor, self.settings)


def _record(given: dict[str, Any], envelope: Mapping[str, str], settings: RecordSettings, now: float) -> Parsed:
    left = dict(given)
    kind = fields.choice(left, "kind", ("feedback", "exposure", "erase")) or "feedback"
    redactor = Redactor(settings.regions)
    identifier = fields.text(left, "id", required=True, shortest=1, longest=128) or ""
    deployment = fields.text(left, "deployment", required=True, shortest=1, longest=128) or ""
    if deployment not in settings.deployments:
        known = ", ".join(sorted(settings.deployments)[:20]) or "none"
        raise Rejected("unknown_deployment", "deployment", f"is not known here: send one of {known}")
    time = fields.moment(left, now)
    named = label(identifier, redactor, settings)
    message = _Message(given, left, envelope, named, deployment, time, redactor, settings)
    return _erase(message) if kind == "erase" else _stored(message, Feedback if kind == "feedback" else Exposure)


def _stored(message: _Message, kind: type[Feedback] | type[Exposure]) -> Feedback | Exposure:
    left, settings = message.left, message.settings
    user = fields.text(left, "user", shortest=1, longest=1024)
    default = settings.deployments[message.deployment].consent_default
    consent = fields.choice(left, "consent", CONSENTS) or default or "none"
    rating = fields.rating(left)
    tenant, interaction, version = message.label("tenant"), message.label("interaction"), _model_version(message)
    features = fields.features(left, message.redactor.text, is_card)
    sampling = fields.sampling(left)
    body = _body(kind.kind, message, rating)
    asked = normalise(question(body["messages"])) if body.get("messages") else ""
    prompt_hash = keyed(settings.fold_key, "prompt", asked) if asked else ""
    key = secrets.token_hex(32)
    return kind(
        id=message.id,
        deployment=message.deployment,
        time=message.time,
        tenant=tenant,
        interaction=interaction,
        model_version=version,
        fold=_fold(prompt_hash or keyed(settings.fold_key, "prompt", f"id:{message.id}"), settings.judge_share),
        usable=_usable(kind.kind, rating, body, consent),
        rating=rating,
        consent=consent,
        user_hash=user_hash(user, settings.user_key) if user else "",
        key_version=settings.key_version,
        content_hash=keyed(settings.fold_key, "content", canonical({"kind": kind.kind} | message.given).decode()),
        prompt_hash=prompt_hash,
        commitment=commit(
            key, deployment=message.deployment, id=message.id, time=message.time, rating=rating, body=body
        ),
        commitment_key=key,
        features=features,
        sampling=sampling,
        body=body,
    )


def _body(kind: str, message: _Message, rating: float | None) -> dict[str, Any]:
    left, redactor = message.left, message.redactor
    messages, extra = fields.messages(left)
    texts = {
        name: fields.text(left, name, shortest=0 if name in ("response", "comment") else 1)
        for name in ("response", "correction", "preferred", "rejected", "comment")
    }
    _check_signals(kind, messages, texts, rating)
    if "erase" in left:
        raise Rejected("ambiguous", "erase", 'stands in another kind of record: send it with "kind": "erase"')
    if texts["response"] is None and messages and len(messages) > 1 and messages[-1]["role"] == "assistant":
        # A whole conversation, its last message the answer that was judged: the question must not hold its answer.
        texts["response"] = messages.pop()["content"]
    body: dict[str, Any] = {name: redactor.text(text) for name, text in texts.items() if text is not None}
    if messages:
        body["messages"] = [{"role": m["role"], "content": redactor.text(m["content"])} for m in messages]
    if message.envelope:
        extra["cloudevent"] = {name: text for name, text in message.envelope.items() if name in ("source", "type")}
    if left or extra:
        body["extra"] = redactor.tree(left | extra)
    return body


def _check_signals(
    kind: str, messages: list[dict[str, str]] | None, texts: Mapping[str, str | None], rating: float | None
) -> None:
    given = [name for name in SIGNALS if (rating if name == "rating" else texts[name]) is not None]
    if kind == "exposure":
        if given:
            raise Rejected("ambiguous", given[0], "stands in an exposure: send it as a record of kind feedback")
        return
    if messages is None:
        raise Rejected("missing", "messages", "required with feedback: the conversation, or `prompt`, a string")
    for one, other in (("preferred", "rejected"), ("rejected", "preferred")):
        if one in given and other not in given:
            raise Rejected("missing", other, f"required beside {one}: a preference names both answers")
    if not given:
        raise Rejected("missing", "rating", "feedback has at least one of rating, correction, preferred with rejected")
    if "preferred" in given and texts["preferred"] == texts["rejected"]:
        raise Rejected("range", "rejected", "is the same text as preferred: a preference is between two answers")


def _usable(kind: str, rating: float | None, body: Mapping[str, Any], consent: str) -> str:
    if kind == "exposure" or consent == "none":
        return ""
    if "correction" in body and body["correction"] != body.get("response"):
        return "correction"
    if "preferred" in body:
        return "pair"
    if "correction" in body:
        return "positive"  # the answer was already the one the user wanted
    if rating is None or abs(rating) <= NEUTRAL or not body.get("response"):
        return ""
    return "positive" if rating > 0 else "negative"


def _erase(message: _Message) -> Erase:
    settings, left = message.settings, message.left
    right = 'send {"ids": ["…"]} or {"user": "…"}'
    wish = left.get("erase")
    if "erase" not in left:
        raise Rejected("missing", "erase", f"required with kind erase: {right}")
    if isinstance(wish, list):
        wish = {"ids": wish}
    if not isinstance(wish, dict) or not wish or not wish.keys() <= {"ids", "user"}:
        raise Rejected("type", "erase", f"is not a wish to erase: {right}")
    ids, wish = wish.get("ids", []), dict(wish)
    if not isinstance(ids, list) or not all(isinstance(one, str) and 0 < len(one) <= 128 for one in ids):
        raise Rejected("type", "erase.ids", "must be a list of ids, each a string of 1 to 128 characters")
    if len(ids) > ERASED_AT_ONCE or ("ids" in wish and not ids):
        raise Rejected("range", "erase.ids", f"has {len(ids)} ids: send 1 to {ERASED_AT_ONCE:,}")
    hashes: tuple[str, ...] = ()
    if "user" in wish:
        user = wish["user"]
        if not isinstance(user, str) or not 0 < len(user) <= 1024:
            raise Rejected("type", "erase.user", "must be a string of 1 to 1024 characters")
        keys = dict(settings.old_user_keys) | {settings.key_version: settings.user_key}
        hashes = tuple(user_hash(user, key) for key in keys.values())
    labels = tuple(dict.fromkeys(label(one, message.redactor, settings) for one in ids))
    return Erase(id=message.id, deployment=message.deployment, time=message.time, ids=labels, user_hashes=hashes)


def _model_version(message: _Message) -> str:
    if message.left.get("model_version", "") is None:
        message.left.pop("model_version")
    return message.label("model_version")


def _fold(prompt_hash: str, judge_share: float) -> str:
    return "judge" if int(prompt_hash[:13], 16) / 16**13 < judge_share else "train"
