"""Masking of personal data in free text: e-mail addresses, phone numbers, payment cards.

Owns: what is recognised and what stands in its place. Refuses to know records. Called by `feedback.records` on every
text before anything is stored, the dead letter's body included.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import phonenumbers

EMAIL, PHONE, CARD, NUMBER = "[email]", "[phone]", "[card]", "[number]"
REGIONS = ("US", "GB", "DE", "FR")

# Possessive (++): each run of letters is read once, so that a megabyte of them costs a megabyte.
_LOCAL = r"\w.!#$%&'*+/=?^`{|}~-"
_EMAIL = re.compile(rf"(?<![{_LOCAL}])[{_LOCAL}]++@[^\W_](?:[\w-]{{0,62}}\.){{1,8}}[^\W\d_]{{2,24}}")
_QUOTED = re.compile(r'"[^"\s@]{1,64}"@[^\W_](?:[\w-]{0,62}\.){1,8}[^\W\d_]{2,24}')
_CARD_RUN = re.compile(r"\d(?:[ \-./\u00a0\u2010-\u2013]{0,2}\d){12,}+")
_PHONE_RUN = re.compile(r"(?<!\w)[+(\d](?:[ \-./()\u00a0\u2010-\u2013]{0,3}\d){6,}+")
_DIGITS = re.compile(r"\d(?:[^\w]{0,3}\d){6}")
_CARD_PREFIX = re.compile(r"4|5[0-8]|6[0-9]|3[0-9]|2[2-7]")
_CARD_LENGTHS = range(19, 12, -1)
# Full-width forms that a phone's keyboard offers: recognised at the same places, one character for one.
_NARROW = {0xFF20: "@", 0xFF0E: ".", 0xFF0D: "-", 0xFF0B: "+"} | {0xFF10 + digit: str(digit) for digit in range(10)}


class Redactor:
    """Masks the texts of one record. After `budget` phone-like runs all others are masked unlooked: time is bounded."""

    def __init__(self, regions: Sequence[str] = REGIONS, *, budget: int = 200) -> None:
        self._regions = tuple(regions)
        self._budget = budget

    def text(self, text: str) -> str:
        """The text with e-mail addresses, valid card numbers (Luhn, ISO/IEC 7812) and valid phone numbers masked."""
        seen = text if text.isascii() else text.translate(_NARROW)
        if "@" in seen:
            text = seen = _QUOTED.sub(EMAIL, _EMAIL.sub(EMAIL, seen))
        if _DIGITS.search(seen) is None:
            return text
        return _PHONE_RUN.sub(self._phone, _CARD_RUN.sub(_cards, seen))

    def identifier(self, text: str) -> str:
        """As `text`, but only what can't be a plain number: an order's number of twelve digits stays what it is."""
        text = _EMAIL.sub(EMAIL, text)
        text = _CARD_RUN.sub(lambda run: _cards(run) if sum(map(str.isdigit, run.group())) <= 16 else run.group(), text)
        return PHONE if text.startswith("+") and any(self._spans(text, regions=())) else text

    def tree(self, value: Any) -> Any:
        """The JSON value with every text in it masked, names of fields and whole numbers that are cards included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(name): self.tree(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.tree(item) for item in value]
        if isinstance(value, int) and not isinstance(value, bool) and is_card(str(value)):
            return CARD
        return value

    def _phone(self, match: re.Match[str]) -> str:
        run = match.group()
        self._budget -= 1 + len(run) // 40
        if self._budget < 0 or len(run) > 400:
            return NUMBER
        spans = sorted(set(self._spans(run, self._regions)))
        parts, end = [], 0
        for first, last in spans:
            if first >= end:
                parts += [run[end:first], PHONE]
                end = last
        return "".join([*parts, run[end:]])

    def _spans(self, run: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
        for region in (None, *regions):
            # A number without its country code must also be grouped as one: else every long count would be a phone.
            leniency = phonenumbers.Leniency.VALID if region is None else phonenumbers.Leniency.STRICT_GROUPING
            for match in phonenumbers.PhoneNumberMatcher(run, region, leniency=leniency, max_tries=20):
                yield match.start, match.end


def is_card(digits: str) -> bool:
    """Whether 13 to 19 digits are a payment card number: a known prefix and the Luhn check (ISO/IEC 7812-1)."""
    return (
        len(digits) in _CARD_LENGTHS and _CARD_PREFIX.match(digits) is not None and _luhn(digits).holds(0, len(digits))
    )


class _luhn:  # noqa: N801  a value, not a noun of the design
    """Running Luhn sums of both parities, so that every part of a long run is checked in constant time."""

    def __init__(self, digits: str) -> None:
        self._even, self._odd = [0], [0]
        for place, digit in enumerate(map(int, digits)):
            doubled = digit * 2 - 9 if digit > 4 else digit * 2
            plain_first = place % 2 == 0
            self._even.append(self._even[-1] + (doubled if plain_first else digit))
            self._odd.append(self._odd[-1] + (digit if plain_first else doubled))

    def holds(self, first: int, last: int) -> bool:
        sums = self._even if (last - 1) % 2 else self._odd  # the last digit is never doubled
        return (sums[last] - sums[first]) % 10 == 0


def _cards(match: re.Match[str]) -> str:
    run = match.group()
    places = [place for place, letter in enumerate(run) if letter.isdigit()]
    digits = "".join(run[place] for place in places)
    luhn = _luhn(digits)
    parts, end, start = [], 0, 0
    while start <= len(digits) - 13:
        length = _card_at(digits, places, start, luhn)
        if length:
            parts += [run[end : places[start]], CARD]
            end = places[start + length - 1] + 1
        start += length or 1
    return "".join([*parts, run[end:]])


def _card_at(digits: str, places: list[int], start: int, luhn: _luhn) -> int:
    """The length of a card number that begins at the digit `start` and at the border of a group, or 0."""
    if (start and places[start] == places[start - 1] + 1) or _CARD_PREFIX.match(digits, start) is None:
        return 0
    for length in _CARD_LENGTHS:
        last = start + length
        ends = last == len(digits) or (last < len(digits) and places[last] > places[last - 1] + 1)
        if ends and luhn.holds(start, last):
            return length
    return 0
