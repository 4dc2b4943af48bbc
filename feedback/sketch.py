"""Sketches: counts of every column over blocks of ingest sequence, kept in the transaction that stores the records.

Owns: which columns a record has, the fixed bins of numbers, the cap on categories. Refuses to know windows and drift
(`feedback.windows` sums blocks up). Called by `feedback.append` (writes) and `feedback.windows` (bins, edges).

A block is a hundred sequence numbers: small enough that windows of whole blocks read no row, and that a hundred
thousand records are a thousand blocks. Its row of a column holds counts by the weekday (UTC, "0" is Monday) on which the
records came in, since weeks have a rhythm that is no drift. One day's counts are flat. `n` is the number of values.
Numbers add `sum`, `squares` and bins named by an integer ("37"); categories add bins named "=" and the category ("=en").
The column "" counts the records. Ratings are rows of kind `outcomes` whose column is the version that answered, so that
nobody is blamed for another's answers: they add `good`, `neutral` and `bad`, and for slices of the record (its tenant,
and each of its words) how many good and bad ones came from it: "+topic=t03" and "-topic=t03". Of the slices that a
policy names, the columns are counted too: rows of the kind with "/slices" behind it, one a slice ("tenant=acme"), whose
counts are those of each column by its name. Rows of the kind with "/questions" behind it hold the hashes of what was
asked (`feedback.asked`), under a kind of their own since a feature may have any name.
"""

import math
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from feedback import asked
from feedback.statements import upsert
from feedback.tables import Sketch
from feedback.topics import topic

BLOCK = 100
BINS_A_DECADE = 16
SMALLEST = 1e-9
LARGEST = 1e15
CATEGORIES = 200
SLICES = 40
COLUMNS = 200
OTHER = "=(other)"
NEUTRAL = 0.2
RECORDS = ""
FEEDBACK = "feedback"
OUTCOMES = "outcomes"
RATING = "rating"
SLICED = "/slices"  # of a kind: the same by slice
QUESTIONS = "/questions"  # of a kind: what its records asked
TENANT = "tenant"
DAY = 86400.0

Value = float | int | str
Day = dict[str, Any]  # the counts of one weekday, flat
Days = dict[str, Day]

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
    """What one stored record adds: `kind` is exposure or feedback, `columns` its scalar columns.

    `day`: the weekday of its ingest. `version`: the model version that answered, "" where nobody knows. `slices`: names of
    word columns (or "tenant") whose values are counted one by one. `asked`: the keyed hash of the question in hex, "" where
    the record tells none.
    """

    deployment: str
    seq: int
    kind: str
    columns: Mapping[str, Value] = field(default_factory=dict)
    day: str = "0"
    version: str = ""
    tenant: str = ""
    slices: tuple[str, ...] = ()
    asked: str = ""


def weekday(at: float) -> str:
    """The weekday of a unix time in UTC: "0" is Monday."""
    return str((int(at // DAY) + 3) % 7)  # 1970-01-01 was a Thursday


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


def bins(counts: Mapping[str, Any]) -> dict[str, float]:
    """Only the bins of a sketch: integers as text for numbers, "=" and the category for categories."""
    return {name: count for name, count in counts.items() if name[0] == "=" or name.lstrip("-").isdecimal()}


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
    """Add records to the sketches of their blocks: one read and one write a deployment and kind, not one a record."""
    fresh: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    for seen in observations:
        fresh[seen.deployment, seen.kind].append(seen)
        fresh[seen.deployment, seen.kind + QUESTIONS].append(seen)
        if RATING in seen.columns and seen.kind == FEEDBACK:
            fresh[seen.deployment, OUTCOMES].append(seen)
        if seen.slices:
            fresh[seen.deployment, seen.kind + SLICED].append(seen)
    for (deployment, kind), seen_ones in fresh.items():
        blocks = sorted({seen.seq // BLOCK for seen in seen_ones})
        query = select(Sketch.block, Sketch.column, Sketch.counts).where(
            Sketch.deployment == deployment, Sketch.kind == kind, Sketch.block.in_(blocks)
        )
        stored: dict[int, dict[str, dict[str, Any]]] = {block: {} for block in blocks}
        for block, name, counts in session.execute(query):
            stored[block][name] = counts  # parsed for us alone
        changed: set[tuple[int, str]] = set()
        put = _outcome if kind == OUTCOMES else PUTS[kind.removeprefix(seen_ones[0].kind)]
        for seen in seen_ones:
            block = seen.seq // BLOCK
            changed |= {(block, name) for name in put(stored[block], seen)}
        rows = [
            {"deployment": deployment, "block": block, "kind": kind, "column": name, "counts": stored[block][name]}
            for block, name in sorted(changed)
        ]
        upsert(session, Sketch, rows, update=("counts",))


def _record(stored: dict[str, Days], seen: Observation) -> list[str]:
    """Count the record and its columns; the names of the rows that this changed."""
    return _columns(stored, seen.columns, seen.day)


def _columns(stored: dict[str, Days], columns: Mapping[str, Value], day: str, without: str = RATING) -> list[str]:
    number = _day(stored, RECORDS, day)
    number["n"] += 1
    changed = [RECORDS]
    for name, value in columns.items():
        if name not in (RATING, without):
            kept = _kept(stored, name)
            count(_day(stored, kept, day), value)
            changed.append(kept)
    return changed


def _outcome(stored: dict[str, Days], seen: Observation) -> list[str]:
    kept = _kept(stored, seen.version)
    words = {name: value for name, value in seen.columns.items() if isinstance(value, str)}
    rate(_day(stored, kept, seen.day), float(seen.columns[RATING]), {"tenant": seen.tenant} | words)
    return [kept]


def _sliced(stored: dict[str, dict[str, Days]], seen: Observation) -> list[str]:
    """Count the record's columns in each slice that it belongs to, but for the one that tells the slice."""
    changed = []
    for name in seen.slices:
        value = seen.tenant if name == TENANT else seen.columns.get(name)
        key = f"{name}={value}"
        if not isinstance(value, str) or not value:
            continue
        # A word that is another one in every record is no slice.
        if key not in stored and sum(known.startswith(f"{name}=") for known in stored) >= SLICES:
            continue
        _columns(stored.setdefault(key, {}), seen.columns, seen.day, without=name)
        changed.append(key)
    return changed


def _question(stored: dict[str, Days], seen: Observation) -> list[str]:
    """Keep the hash of what the record asked; one that tells nothing is counted too, so that a gap is seen."""
    held = stored.setdefault(RECORDS, {}).setdefault("", {"n": 0, "hashes": []})
    held["n"] += 1
    if seen.asked:
        hashes, one = held["hashes"], asked.hashed(seen.asked)
        place = bisect_left(hashes, one)
        if hashes[place : place + 1] != [one]:
            hashes.insert(place, one)
    return [RECORDS]


Put = Callable[[dict[str, Any], Observation], list[str]]
PUTS: Mapping[str, Put] = {"": _record, SLICED: _sliced, QUESTIONS: _question}


def forget(session: Session, deployment: str, kind: str, block: int, asked_once: Iterable[str]) -> None:
    """Take questions, by their keyed hashes, out of a block: nobody asked them any more."""
    gone = {asked.hashed(one) for one in asked_once}
    mine = (Sketch.deployment == deployment, Sketch.block == block, Sketch.kind == kind + QUESTIONS)
    for days in session.scalars(select(Sketch.counts).where(*mine)).all():
        held = days[""]
        left = {**held, "hashes": [one for one in held["hashes"] if one not in gone]}
        session.execute(update(Sketch).where(*mine).values(counts={"": left}))


def _kept(stored: Mapping[str, Any], name: str) -> str:
    # A sender that invents names must not grow the table without end.
    return name if name in stored or len(stored) < COLUMNS else "(other)"


def _day(stored: dict[str, Days], name: str, day: str) -> Day:
    return stored.setdefault(name, {}).setdefault(day, {"n": 0})


def count(counts: Day, value: Value) -> None:
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
    counts[name] = counts.get(name, 0) + 1


def rate(counts: Day, rating: float, slices: Mapping[str, str]) -> None:
    """Count one rating in place, for all and for each slice (by name, "" is none) that it came from."""
    sign = "neutral" if abs(rating) <= NEUTRAL else "good" if rating > 0 else "bad"
    counts["n"] += 1
    counts[sign] = counts.get(sign, 0) + 1
    if sign == "neutral":
        return
    for name, value in slices.items():
        key = f"{'+' if sign == 'good' else '-'}{name}={value}"
        # A word that is another one in every record (an order's number) is no slice.
        if value and (key in counts or sum(known.startswith(f"{key[0]}{name}=") for known in counts) < SLICES):
            counts[key] = counts.get(key, 0) + 1
