"""banking77 as a stream: its queries in domains that arrive one after another, the model that served before, the sets.

Owns: the data and what is made of it. Refuses to know learnd but for its formats. Called by `stream_banking77`.
"""

import csv
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.demo import base, world

HERE = Path(__file__).resolve()
FOLDER = HERE.parents[3] / "shared" / "data" / "banking77"
NOBODYS = -1
GROUPS, KNOWN = 7, 3  # domains, and how many of them the first model knows
# A small vocabulary: an update of an adapter cannot teach pieces that the first model never wrote (tied embeddings).
SHAPE = base.Shape(vocabulary=600, layers=3)


@dataclass(frozen=True)
class Query:
    """A real query of a bank's customer, the name of its intent, and the number of its domain."""

    text: str
    intent: str
    domain: int


@dataclass(frozen=True)
class Data:
    """Queries to train and to test on, over `GROUPS` domains."""

    train: tuple[Query, ...]
    test: tuple[Query, ...]

    def of(self, domains: Iterable[int], *, test: bool = False) -> list[Query]:
        """The queries of some domains."""
        wanted = set(domains)
        return [query for query in (self.test if test else self.train) if query.domain in wanted]


def read(intents: int, folder: Path = FOLDER) -> Data:
    """The data in domains of `intents` intents each (11 is all of them), in the order of categories.json.

    Raises: FileNotFoundError where the data isn't there.
    """
    names = json.loads((folder / "categories.json").read_text(encoding="utf-8"))
    size = len(names) // GROUPS
    domain = {name: at // size for at, name in enumerate(names) if at % size < intents}

    def rows(name: str) -> tuple[Query, ...]:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            found = [(row["text"].strip(), row["category"]) for row in csv.DictReader(file)]
        return tuple(Query(text, intent, domain[intent]) for text, intent in found if intent in domain)

    return Data(rows("train.csv"), rows("test.csv"))


def first_model(data: Data, folder: Path, seed: int, epochs: float) -> int:
    """Train the model that knows the first domains and what to refuse into `folder`; the steps that it took."""
    known = world.load()
    rng = random.Random(seed)
    queries = data.of(range(KNOWN))
    pairs = [(query.text, _name(query.intent)) for query in queries]
    harmful = known.group("harmful")
    pairs += [(known.ask(rng.choice(harmful), rng).text, known.refusal) for _ in range(len(pairs) // 8)]
    words = base.tokenizer([text for pair in pairs for text in pair], SHAPE.vocabulary)
    recipe = base.Recipe(steps=round(len(pairs) * epochs / 16), batch=16, rate=3e-3, seed=seed, drop=0.15)
    base.save(base.fit(base.model(SHAPE, words, seed), base.encode(words, pairs), recipe), words, folder)
    return recipe.steps


def answer(query: Query) -> str:
    """What the model should say: the intent's name in words, or the refusal of what nobody should answer."""
    return query.intent if query.domain == NOBODYS else _name(query.intent)


def unsafe(rng: random.Random, count: int) -> list[Query]:
    """What a bank is asked as well: questions to refuse. Without them nothing would teach an update to go on refusing."""
    known = world.load()
    harmful = known.group("harmful")
    return [Query(known.ask(rng.choice(harmful), rng).text, known.refusal, NOBODYS) for _ in range(count)]


def _name(intent: str) -> str:
    return intent.replace("_", " ").replace("?", "").lower()


def golden_sets(data: Data, rng: random.Random, size: int) -> dict[str, str]:
    """JSON Lines by role: goldens and anchors are test queries of the known domains, safety is refusing and answering."""
    held = data.of(range(KNOWN), test=True)
    rng.shuffle(held)
    held = _distinct(held)
    goldens, anchors, benign = held[:size], held[size : size + size // 2], held[-100:]
    known = world.load()
    harmful = known.distinct(150, known.group("harmful"), rng, held=True)
    safety = [
        {"id": f"h{at}", "slice": "harmful", "prompt": ask.text, "check": {"kind": "refuse"}}
        for at, ask in enumerate(harmful)
    ] + [
        {"id": f"b{at}", "slice": "benign", "prompt": query.text, "check": {"kind": "comply"}}
        for at, query in enumerate(benign)
    ]
    sets = {"goldens": _items(goldens), "anchor": _items(anchors), "safety": safety}
    return {role: "".join(json.dumps(item) + "\n" for item in items) for role, items in sets.items()}


def _items(queries: Sequence[Query]) -> list[dict[str, object]]:
    return [
        {
            "id": f"q{at}",
            "slice": f"domain {query.domain + 1}",
            "prompt": query.text,
            "check": {"kind": "normalised", "value": _name(query.intent)},
            "reference": _name(query.intent),
        }
        for at, query in enumerate(queries)
    ]


def _distinct(queries: Iterable[Query]) -> list[Query]:
    return list({query.text.lower(): query for query in queries}.values())
