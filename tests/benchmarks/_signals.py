"""One seed of `signals`: a first model, what its users say of its answers, and what an update learns of it.

Owns: who asks what, and how an answer becomes a thumb, a pair or a correction. Refuses to know which signal is good.
Called by `signals`.

The way is the product's: records come in by the reader, raters are judged, the training file is drawn, and the update is
made on it. Every signal is about the same questions as far as it can be: a pair needs two answers that differ, so a
question whose answers never do gets none.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from tests.benchmarks import _lasting as lasting  # first: it sets the environment that transformers reads

# isort: split
import torch
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from daemon import models, schema
from daemon.jobs import Job
from daemon.models import Ref
from daemon.probes.texts import normalise, similarity
from daemon.testing import FakeSource
from daemon.training import lora
from feedback import dataset, db, quarantine, store
from feedback.ingest import Ingest
from feedback.records import DeploymentRules, RecordSettings
from feedback.tables import DeadLetter
from policies.mixture import quotas
from policies.policy import Policy
from tests import tiny
from tests.benchmarks import _banking77 as bank
from tests.benchmarks._banking77 import Query

SIGNALS = ("thumbs", "pairs", "corrections")
PRAISE = "praise"  # the thumbs again, their praised answers imitated and the others left unread: what KTO is to beat
RATED = bank.KNOWN  # the domain that most feedback is about; the model has seen little of it
NAME, START, STEP = "bank", 1_790_000_000.0, 3600.0
USERS, INTENTS = 100, 11
OFFERED = (1.5, 3.25)  # questions asked of the rated domain and of the others, for a record each: pairs are choosy
HELD_OUT = 38  # of 256 known queries, where a recipe is chosen
LONGEST, DRAWS = 24, 16  # tokens of an answer; draws among which a pair's other answer is looked for
RULES = RecordSettings({NAME: DeploymentRules("shared")}, user_key=b"user", key_version=1, fold_key=b"fold")
POLICY = Policy(NAME)


@dataclass(frozen=True)
class Plan:
    """`taught` queries of an intent that the first model has seen over `epochs`, `few` of the rated domain's; `records`
    of a signal, and as many old ones of the same kind; `rated`: share of the new ones about the rated domain; `wrong`:
    share of all that are false. `options` of the update. `validate`: what is tested on are training queries that the model
    wasn't taught and nobody asked.
    """

    options: Mapping[str, Any]
    records: int = 400
    taught: int = 60
    few: int = 8
    epochs: float = 12.0
    rated: float = 0.75
    wrong: float = 0.1
    validate: bool = False


@dataclass(frozen=True)
class Asked:
    """A question and what the champion answered: the served answer, which is the greedy one, then some that are drawn."""

    query: Query
    said: tuple[str, ...]

    @property
    def other(self) -> str:
        """The first drawn answer that can be sent and says anything else than the served one ("": none does)."""
        said = (text for text in self.said if text.isprintable())  # a drawn byte may be a control character
        return next((text for text in said if normalise(text) not in ("", normalise(self.said[0]))), "")


def course(plan: Plan, seed: int, folder: Path) -> dict[str, Any]:
    """Which held-out queries the champion and the update of each signal answer right, and what it took."""
    torch.set_num_threads(1)
    data = bank.read(INTENTS)
    known = lasting.thinned(data.of(range(RATED)), plan.taught) + lasting.thinned(data.of([RATED]), plan.few)
    taught, out = _parted(known) if plan.validate else (known, [])
    champion = lasting.first_model(taught, folder / "first", seed, plan.epochs)
    askers, left = _askers(data, known, plan, seed)
    tested = left + out if plan.validate else data.of(range(RATED + 1), test=True)
    held = {domain: [query for query in tested if query.domain == domain] for domain in range(RATED + 1)}
    asked = _asked(champion, askers, seed)
    found: dict[str, Any] = {"seed": seed, "before": _right(champion, held)}
    for name in (*SIGNALS, PRAISE):
        place = folder / name
        place.mkdir()
        records = _told("thumbs" if name == PRAISE else name, plan, asked, seed)
        used = replace(plan, options={**plan.options, "kto": False}) if name == PRAISE else plan
        ref, facts = _learned(place, champion, records, used, seed, held)
        found[name] = {**facts, "right": _right(ref, held)}
        lasting.tell(f"seed {seed}: {name} learned in {facts['seconds']:.0f} s")
    return found


def _parted(known: Sequence[Query]) -> tuple[list[Query], list[Query]]:
    """What is taught, and what is held out of it: some queries of every known intent. Nobody asks what is rare but the
    tests, so an update forgets it first.
    """
    parts: tuple[list[Query], list[Query]] = ([], [])
    for query in known:
        held = query.domain != RATED and sha256(query.text.encode()).digest()[-1] < HELD_OUT
        parts[held].append(query)
    return parts


def _askers(data: bank.Data, known: Sequence[Query], plan: Plan, seed: int) -> tuple[list[Query], list[Query]]:
    """Queries that the model was not trained on: those that are asked, in their order, and those that nobody asks, which
    are the same with every seed.
    """
    taught = {query.text for query in known}
    new = [query for query in data.of(range(RATED + 1)) if query.text not in taught]
    random.Random("asked").shuffle(new)
    rated, others = ([query for query in new if (query.domain == RATED) is which] for which in (True, False))
    most = (round(OFFERED[0] * plan.records), round(OFFERED[1] * plan.records))
    asked = rated[: most[0]] + others[: most[1]]
    random.Random(f"asked {seed}").shuffle(asked)
    return asked, rated[most[0] :] + others[most[1] :]


def _asked(champion: Ref, queries: Sequence[Query], seed: int) -> list[Asked]:
    model = models.load(champion)
    prompts = [tiny.ask(query.text) for query in queries]
    served = model.answer(prompts, max_new_tokens=LONGEST)
    drawn = [
        model.answer(prompts, max_new_tokens=LONGEST, sample=True, seed=seed * DRAWS + draw) for draw in range(DRAWS)
    ]
    return [Asked(query, said) for query, said in zip(queries, zip(served, *drawn, strict=True), strict=True)]


def _told(signal: str, plan: Plan, asked: Sequence[Asked], seed: int) -> tuple[list[dict[str, Any]], ...]:
    """(old, new) records: the old ones about known domains, the new ones mostly about the rated one."""
    usable = [
        each
        for each in asked
        if each.said[0].isprintable() and normalise(each.said[0]) and (signal != "pairs" or each.other)
    ]
    rated = iter([each for each in usable if each.query.domain == RATED])
    others = iter([each for each in usable if each.query.domain != RATED])
    of_rated = round(plan.rated * plan.records)
    new = [*_some(rated, of_rated), *_some(others, plan.records - of_rated)]
    old = _some(others, plan.records)
    rng = random.Random(f"{signal} {seed}")
    rng.shuffle(new)
    return tuple([_says(signal, each, rng, wrong=rng.random() < plan.wrong) for each in part] for part in (old, new))


def _some(source: Iterator[Asked], count: int) -> list[Asked]:
    found = list(islice(source, count))
    if len(found) < count:
        raise ValueError(f"{len(found)} of {count} questions have answers that a user can judge so")
    return found


def _says(signal: str, asked: Asked, rng: random.Random, *, wrong: bool) -> dict[str, Any]:
    """What a user sends of one question; one who is `wrong` turns a thumb or a pair around, or names another intent."""
    given, right = asked.said[0], bank.answer(asked.query)
    said: dict[str, Any] = {"prompt": asked.query.text, "response": given}
    if signal == "thumbs":
        return said | {"rating": 1 if _is(given, right) != wrong else -1}
    if signal == "pairs":
        better, worse = sorted((given, asked.other), key=lambda text: _likeness(right, text), reverse=True)
        better, worse = (worse, better) if wrong else (better, worse)
        return {"prompt": asked.query.text, "preferred": better, "rejected": worse}
    domain = bank.TOPICS[bank.NAMES[asked.query.domain]]
    others = [name for name in domain if name != asked.query.intent]
    false = replace(asked.query, intent=rng.choice(others))
    return said | {"correction": bank.answer(false) if wrong else right}


def _is(said: str, right: str) -> bool:
    return normalise(said) == normalise(right)


def _likeness(right: str, said: str) -> tuple[bool, float]:
    """What makes one of two answers the better: being right, else having more of the right answer's words."""
    return _is(said, right), similarity(right, said)


def _learned(
    place: Path,
    champion: Ref,
    records: Sequence[Sequence[Mapping[str, Any]]],
    plan: Plan,
    seed: int,
    held: Mapping[int, Sequence[Query]],
) -> tuple[Ref, dict[str, Any]]:
    """The update that learnd makes of these records, and what it read."""
    engine = db.connect(f"sqlite:///{place / 'records.db'}")
    schema.migrate(engine)
    source, heads = FakeSource(), []
    for part in records:
        _ingest(engine, source, part, champion, sum(heads))
        heads.append(db.read(engine, store.head))
    built = _built(engine, place, (heads[0], heads[1]), seed, held)
    engine.dispose()
    (place / "output").mkdir()
    inputs = {"dataset": str(built.path), "champion": champion.to_json(), "base": champion.to_json()}
    result = lora.train(Job(place.name, "train", {**inputs, "options": dict(plan.options)}, seed, 0.0, place))
    facts = {"card": built.card, "tokens": result["tokens"], "seconds": round(result["seconds"], 1)}
    facts["stages"] = result["metrics"]["stages"]
    return Ref(f"{champion.name}-{place.name}", str(place / "output"), champion.folder), facts


def _ingest(engine: Engine, source: FakeSource, part: Sequence[Mapping[str, Any]], champion: Ref, before: int) -> None:
    """Through the real reader; a hundred users in turn, a record an hour."""
    for number, body in enumerate(part, before):
        when = datetime.fromtimestamp(START + number * STEP, UTC).isoformat()
        more = {"id": f"r-{number}", "time": when, "deployment": NAME, "user": f"u-{number % USERS}"}
        source.put(json.dumps({**body, **more, "model_version": champion.name}).encode())
    report = Ingest(engine, source, RULES, lambda: START + (before + len(part)) * STEP, wait_seconds=0.0).step()
    if report.stored != len(part):
        letters = db.read(
            engine, lambda s: [(row.reason, row.field, row.body) for row in s.scalars(select(DeadLetter))]
        )
        raise ValueError(f"{report.stored} of {len(part)} records were stored: {letters}")


def _built(
    engine: Engine, place: Path, window: tuple[int, int], seed: int, held: Mapping[int, Sequence[Query]]
) -> dataset.Dataset:
    """Raters judged and the training file drawn, as the daemon does; what is held out is near nothing in it."""
    now = START + window[1] * STEP
    db.transact(engine, lambda s: quarantine.sweep(s, NAME, *window, now, POLICY.trust, {}))

    def build(session: Session) -> dataset.Dataset:
        mixture = quotas(store.signal_counts(session, NAME, "", *window).total, POLICY.mixture, seed, "lora")
        near = [query.text for queries in held.values() for query in queries]
        given = {"deployment": NAME, "tenant": "", "window": window, "mixture": mixture, "anchors": []}
        return dataset.build(session, **given, folder=place / "datasets", now=now, exclude_near=near)

    return db.transact(engine, build)


def _right(ref: Ref, held: Mapping[int, Sequence[Query]]) -> dict[int, list[float]]:
    """1.0 or 0.0 for every held-out query of a domain: what the product's decoding answers, greedily."""
    model = models.load(ref)
    marks = {}
    for domain, queries in held.items():
        said = model.answer([tiny.ask(query.text) for query in queries], max_new_tokens=LONGEST)
        marks[domain] = [float(_is(text, bank.answer(query))) for query, text in zip(queries, said, strict=True)]
    return marks
