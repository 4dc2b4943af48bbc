"""Sketches: counts of every column over blocks of ingest sequence, kept in the transaction that stores the records.

Owns: which columns a record has, the fixed bins of numbers, the cap on categories. Refuses to know windows and drift
(`feedback.windows` sums blocks up). Called by `feedback.ingest` (writes) and `feedback.windows` (bins, edges).

A column's `counts` is flat. `n` is the number of values. Numbers add `sum`, `squares` and bins named by an integer
("37"); categories add bins named "=" and the category ("=en"); the column `rating` adds `good`, `neutral` and `bad`.
"""

import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from feedback.statements import upsert
from feedback.tables import Sketch
from feedback.topics import topic

BLOCK = 1000
BINS_A_DECADE = 16
SMALLEST = 1e-9
LARGEST = 1e15
CATEGORIES = 200
COLUMNS = 200
OTHER = "=(other)"
NEUTRAL = 0.2
STATISTICS = frozenset({"n", "sum", "squares", "good", "neutral", "bad"})

Value = float | int | str

STOP_WORDS: Mapping[str, frozenset[str]] = {
    code: frozenset(words.split())
    for code, words in {
        "en": "the and is are to of my you what how can i it for not was this have do a",
        "de": "der die das und ist nicht ich wie ein eine zu mein mit auf für sie kann was es",
        "fr": "le la les et est je ne pas un une des que pour mon ma comment vous dans ce",
        "es": "el los las y es no un una que para mi cómo en por con mis qué puedo del",
        "it": "il gli e è non un una che per mio come di mia con sono posso del ho",
        "pt": "o os e é não um uma que para meu como de minha com eu posso do em",
        "nl": "de het en is niet een ik mijn hoe van voor met kan dat wat op zijn",
    }.items()
}
_LANGUAGES = {
    word: tuple(code for code, words in STOP_WORDS.items() if word in words)
    for word in frozenset().union(*STOP_WORDS.values())
}
SCRIPTS = {
    "CYRILLIC": "ru", "GREEK": "el", "ARABIC": "ar", "HEBREW": "he", "HIRAGANA": "ja", "KATAKANA": "ja",
    "HANGUL": "ko", "CJK": "zh", "DEVANAGARI": "hi", "THAI": "th",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Observation:
    """What one stored record adds: `kind` is exposure or feedback, `columns` its scalar columns."""

    deployment: str
    seq: int
    kind: str
    columns: Mapping[str, Value] = field(default_factory=dict)


def number_bin(value: float) -> int:
    """The fixed log-scaled bin of a number: 0 for |value| < 1e-9, else sign times a position, 16 bins a decade."""
    size = min(abs(value), LARGEST)
    if size < SMALLEST:
        return 0
    position = 1 + math.floor(math.log10(size / SMALLEST) * BINS_A_DECADE)
    return position if value > 0 else -position


def edges(index: int) -> tuple[float, float]:
    """The interval of a number bin, lower edge first; bin 0 is (-1e-9, 1e-9)."""
    if index == 0:
        return (-SMALLEST, SMALLEST)
    inner = SMALLEST * 10 ** ((abs(index) - 1) / BINS_A_DECADE)
    outer = SMALLEST * 10 ** (abs(index) / BINS_A_DECADE)
    return (inner, outer) if index > 0 else (-outer, -inner)


def bins(counts: Mapping[str, Any]) -> dict[str, int]:
    """Only the bins of a sketch: integers as text for numbers, "=" and the category for categories."""
    return {name: int(count) for name, count in counts.items() if name not in STATISTICS}


def language(text: str) -> str:
    """A cheap guess: the script, and for Latin script the stop words; "und" where neither tells."""
    sample = text[:400]
    scripts: dict[str, int] = defaultdict(int)
    for letter in sample:
        if letter > "\u02ff" and letter.isalpha():
            scripts[unicodedata.name(letter, "?").split(" ", 1)[0].split("-", 1)[0]] += 1
    if scripts and sum(scripts.values()) * 2 > sum(map(str.isalpha, sample)):
        if scripts.get("HIRAGANA") or scripts.get("KATAKANA"):  # Japanese mixes them with Chinese characters
            return "ja"
        return SCRIPTS.get(max(scripts, key=lambda name: scripts[name]), "und")
    hits = dict.fromkeys(STOP_WORDS, 0)
    for word in sample.lower().split():
        for code in _LANGUAGES.get(word.strip(".,;:!?¿¡\"'()"), ()):
            hits[code] += 1
    first, second = sorted(hits, key=lambda code: -hits[code])[:2]
    return first if hits[first] > hits[second] else "und"


def columns(
    features: Mapping[str, Value], prompt: str | None, response: str | None, rating: float | None
) -> dict[str, Value]:
    """The columns of one record: its features, `prompt_length`, `response_length` (characters), `language`,
    `topic` (a bin, `feedback.topics`), `rating`.

    A feature that has the name of one of ours is kept as `features.NAME`.
    """
    ours: dict[str, Value] = {}
    if prompt is not None:
        ours |= {"prompt_length": len(prompt), "language": language(prompt), "topic": topic(prompt)}
    if response is not None:
        ours["response_length"] = len(response)
    if rating is not None:
        ours["rating"] = rating
    taken = {"prompt_length", "response_length", "language", "topic", "rating"}
    return ours | {f"features.{name}" if name in taken else name: value for name, value in features.items()}


def add(session: Session, observations: Iterable[Observation]) -> None:
    """Add records to the sketches of their blocks: one read and one write a touched block, not one a record."""
    fresh: dict[tuple[str, int, str], list[Mapping[str, Value]]] = defaultdict(list)
    for seen in observations:
        fresh[seen.deployment, seen.seq // BLOCK, seen.kind].append(seen.columns)
    for (deployment, block, kind), rows in fresh.items():
        query = select(Sketch.column, Sketch.counts).where(
            Sketch.deployment == deployment, Sketch.block == block, Sketch.kind == kind
        )
        stored = {name: dict(counts) for name, counts in session.execute(query)}
        changed = _merge(stored, rows)
        upsert(
            session,
            Sketch,
            [
                {"deployment": deployment, "block": block, "kind": kind, "column": name, "counts": stored[name]}
                for name in sorted(changed)
            ],
            update=("counts",),
        )


def _merge(stored: dict[str, dict[str, Any]], rows: Sequence[Mapping[str, Value]]) -> set[str]:
    changed = set()
    for row in rows:
        for name, value in row.items():
            # A sender that invents column names must not grow the table without end.
            kept = name if name in stored or len(stored) < COLUMNS else "(other)"
            count(stored.setdefault(kept, {"n": 0}), kept, value)
            changed.add(kept)
    return changed


def count(counts: dict[str, Any], column: str, value: Value) -> None:
    """Count one value of a column in place."""
    counts["n"] += 1
    if isinstance(value, str):
        name = f"={value}"
        if name not in counts and sum(key.startswith("=") for key in counts) >= CATEGORIES:
            name = OTHER
    else:
        # Clipped, so that one absurd value can't turn the sums of a whole block into infinity.
        clipped = max(-LARGEST, min(LARGEST, float(value)))
        name = str(number_bin(clipped))
        counts["sum"] = counts.get("sum", 0.0) + clipped
        counts["squares"] = counts.get("squares", 0.0) + clipped * clipped
        if column == "rating":
            sign = "neutral" if abs(clipped) <= NEUTRAL else "good" if clipped > 0 else "bad"
            counts[sign] = counts.get(sign, 0) + 1
    counts[name] = counts.get(name, 0) + 1
