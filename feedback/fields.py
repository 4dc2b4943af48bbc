"""Typed readers of the fields of record v1: each takes one field out of a JSON object or says what would be right.

Owns: types, lengths and ranges of the table in the design. Refuses to know what a record means. Called by
`feedback.records`. Nothing is coerced: a number in quotes is a string.
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from feedback.wire import Rejected

ROLES = ("system", "developer", "user", "assistant", "tool")
MESSAGES = 1000
FEATURES = 256
AHEAD = 300.0  # seconds that a sender's clock may be ahead of ours

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)

Fields = dict[str, Any]


def text(fields: Fields, name: str, *, required: bool = False, longest: int = 0, shortest: int = 0) -> str | None:
    """Take a string of `shortest` to `longest` characters (0: no limit); None where an optional one is absent.

    Raises: Rejected with reason missing, type or range.
    """
    if name not in fields:
        if required:
            raise Rejected(
                "missing", name, "required: a string" + (f" of 1 to {longest} characters" if longest else "")
            )
        return None
    value = fields.pop(name)
    if not isinstance(value, str):
        raise Rejected("type", name, f"is {kind_of(value)}: send a string, or leave an optional field out")
    if len(value) < shortest or (longest and len(value) > longest):
        limits = f"{shortest} to {longest}" if longest else f"at least {shortest}"
        raise Rejected("range", name, f"has {len(value)} characters: send {limits}")
    return value


def choice(fields: Fields, name: str, allowed: tuple[str, ...]) -> str | None:
    """Take one of the allowed words. Raises: Rejected with reason type or range."""
    value = text(fields, name)
    if value is not None and value not in allowed:
        raise Rejected("range", name, f"is not one of {', '.join(allowed)}")
    return value


def number(value: Any, place: str) -> float:
    """A finite JSON number. Raises: Rejected with reason type or range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Rejected("type", place, f"is {kind_of(value)}: send a number without quotes")
    if not math.isfinite(value):
        raise Rejected("range", place, "is not finite: send a finite number")
    return float(value)


def rating(fields: Fields) -> float | None:
    """Take the rating, normalised to [-1, 1]: -1, 1, or {"value", "min", "max"}.

    Raises: Rejected with reason missing, type or range.
    """
    if "rating" not in fields:
        return None
    value = fields.pop("rating")
    if not isinstance(value, dict):
        plain = number(value, "rating")
        if plain not in (-1.0, 1.0):
            raise Rejected("range", "rating", 'is a scale of its own: send -1, 1 or {"value": …, "min": …, "max": …}')
        return plain
    for name in ("value", "min", "max"):
        if name not in value:
            raise Rejected("missing", f"rating.{name}", "required beside the other two of value, min and max")
    if len(value) > 3:
        raise Rejected("range", "rating", "has other fields than value, min and max: leave them out")
    given, low, high = (number(value[name], f"rating.{name}") for name in ("value", "min", "max"))
    if not low < high or not math.isfinite(high - low):
        raise Rejected("range", "rating.max", "must be greater than min, and their difference a finite number")
    if not low <= given <= high:
        raise Rejected("range", "rating.value", "must lie between min and max")
    return 2.0 * ((given - low) / (high - low)) - 1.0


def sampling(fields: Fields) -> float | None:
    """Take the sampling rate in (0, 1]. Raises: Rejected with reason type or range."""
    if "sampling" not in fields:
        return None
    rate = number(fields.pop("sampling"), "sampling")
    if not 0.0 < rate <= 1.0:
        raise Rejected("range", "sampling", "is the rate answers were sampled at: above 0, at most 1")
    return rate


def moment(fields: Fields, now: float) -> float:
    """Take `time` (RFC 3339, section 5.6) in unix seconds.

    Raises: Rejected with reason missing, type, range, or future where it is over five minutes ahead of `now`.
    """
    written = text(fields, "time", required=True) or ""
    match = _RFC3339.fullmatch(written)
    if match is None:
        raise Rejected("type", "time", "is not RFC 3339: send for example 2026-11-20T03:12:00Z, with its offset")
    try:
        seconds = _unix(match)
    except (ValueError, OverflowError):
        raise Rejected(
            "range", "time", "is no date and time that exists: send for example 2026-11-20T03:12:00Z"
        ) from None
    if seconds < 0:
        raise Rejected("range", "time", "is before 1970: send when the feedback was given")
    if seconds > now + AHEAD:
        raise Rejected("future", "time", f"is {seconds - now:,.0f} s ahead: set the sender's clock (300 s are allowed)")
    return seconds


def _unix(match: re.Match[str]) -> float:
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    sign, hours, minutes = match.group(8), int(match.group(9) or 0), int(match.group(10) or 0)
    if hours > 23 or minutes > 59:
        raise ValueError("offset")
    leap = second == 60  # RFC 3339, 5.7: allowed; it counts as the second after :59
    zone = timezone(timedelta(hours=hours, minutes=minutes) * (-1 if sign == "-" else 1)) if sign else UTC
    whole = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=zone).timestamp()
    return whole + leap + float(f"0.{match.group(7) or 0}")


def messages(fields: Fields) -> tuple[list[dict[str, str]] | None, dict[str, Any]]:
    """Take `messages`, or `prompt` as one of the user's; and the fields of messages that aren't role or content.

    Raises: Rejected with reason type, range, missing, or ambiguous where both are given.
    """
    if "prompt" in fields and "messages" in fields:
        raise Rejected("ambiguous", "prompt", "stands beside messages: send one of the two")
    if "prompt" in fields:
        return [{"role": "user", "content": text(fields, "prompt", shortest=1) or ""}], {}
    if "messages" not in fields:
        return None, {}
    given = fields.pop("messages")
    if not isinstance(given, list):
        raise Rejected("type", "messages", f'is {kind_of(given)}: send [{{"role": "user", "content": "…"}}]')
    if not 1 <= len(given) <= MESSAGES:
        raise Rejected("range", "messages", f"has {len(given)} messages: send 1 to {MESSAGES}")
    kept, extra = [], {}
    for index, message in enumerate(given):
        read, rest = _message(message, f"messages[{index}]")
        kept.append(read)
        if rest:
            extra[f"messages[{index}]"] = rest
    return kept, extra


def _message(message: Any, place: str) -> tuple[dict[str, str], dict[str, Any]]:
    if not isinstance(message, dict):
        raise Rejected("type", place, f'is {kind_of(message)}: send {{"role": "user", "content": "…"}}')
    for name in ("role", "content"):
        if name not in message:
            raise Rejected("missing", f"{place}.{name}", "required: a string")
        if not isinstance(message[name], str):
            raise Rejected("type", f"{place}.{name}", f"is {kind_of(message[name])}: send a string")
    if message["role"] not in ROLES:
        raise Rejected("range", f"{place}.role", f"is not one of {', '.join(ROLES)}")
    rest = {name: value for name, value in message.items() if name not in ("role", "content")}
    return {"role": message["role"], "content": message["content"]}, rest


def features(
    fields: Fields, mask: Callable[[str], str], is_card: Callable[[str], bool]
) -> dict[str, float | int | str]:
    """Take `features`: a flat object of finite numbers and strings of at most 256 characters, names and texts masked.

    Raises: Rejected with reason type or range.
    """
    given = fields.pop("features", {})
    if not isinstance(given, dict):
        raise Rejected("type", "features", f"is {kind_of(given)}: send a flat object of numbers and strings")
    if len(given) > FEATURES:
        raise Rejected("range", "features", f"has {len(given)} fields: send at most {FEATURES}")
    kept: dict[str, float | int | str] = {}
    for name, value in given.items():
        place = f"features.{name}"
        if not 1 <= len(name) <= 128:
            raise Rejected("range", "features", "has a name that is empty or longer than 128 characters")
        if isinstance(value, str):
            if len(value) > 256:
                raise Rejected("range", place, f"has {len(value)} characters: send at most 256")
            kept[mask(name)] = mask(value)
            continue
        number(value, place)
        if isinstance(value, int) and is_card(str(value)):
            raise Rejected("range", place, "looks like a payment card number: leave it out")
        kept[mask(name)] = value
    return kept


def kind_of(value: Any) -> str:
    """A JSON value's kind in words."""
    if value is None:
        return "null"
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), "something else")
