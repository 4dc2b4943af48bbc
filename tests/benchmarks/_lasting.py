"""One learner of `learning_stream`: a first model, then an update a domain by learnd's training code, or joint training.

Owns: what a learner is given to read, how its steps are made, what it reads in tokens, and what it knows afterwards.
Refuses to know which learner is good. Called by `learning_stream`, a process a learner.

A test query counts as right where greedy decoding gives exactly the intent's name: every token of the name and the end
token is the likeliest after the ones before it, which one pass over the right answer tells.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

from tests import tiny  # first: it sets the environment that transformers reads

# isort: split
import torch

from daemon.demo import base
from daemon.jobs import Job
from daemon.models import Ref
from daemon.training import full, lora, packing, tokens
from daemon.training.examples import Example
from daemon.transformers_model import completion_tokens, open_tokenizer, open_weights, prompt_tokens
from feedback import replay
from feedback.topics import topic
from policies.mixture import quotas
from policies.policy import MixtureShares
from tests.benchmarks import _banking77 as bank
from tests.benchmarks._banking77 import Query

SHAPE = base.Shape(vocabulary=1000, layers=2, hidden=96, ffn=256, context=128)
BLOCK = 128  # test queries at once
MUTE = 1e-6


@dataclass(frozen=True)
class Learner:
    """`options` of an update; `replay`: share of old queries in what it reads; `joint`: from the first model on all queries
    so far, at the `steps` (domains that have arrived) that are named; `full`: the method `full`, else `lora`. `mute`: old
    queries are read, and nothing is learned of them.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    replay: float = 0.0
    joint: bool = False
    full: bool = False
    mute: bool = False
    steps: tuple[int, ...] = (1, 2, 3, 4)


@dataclass(frozen=True)
class Spec:
    """One learner of one seed: `most` training queries an intent, `epochs` of the first model, `folder` of all of them."""

    learner: Learner
    seed: int
    folder: Path
    intents: int = 11
    most: int = 60
    epochs: float = 12.0
    validate: bool = False


@dataclass(frozen=True)
class World:
    """Queries in domains, the first model of a seed, and where steps are kept."""

    data: bank.Data
    first: Ref
    seed: int
    folder: Path


def queries(intents: int, most: int, *, validate: bool) -> bank.Data:
    """The data, at most so many training queries an intent; `validate`: what is tested on are the training queries beyond
    them, and no test query is read.
    """
    whole = bank.read(intents)
    train = tuple(thinned(whole.train, most))
    if not validate:
        return bank.Data(train, whole.test)
    learned = set(train)
    return bank.Data(train, tuple(query for query in whole.train if query not in learned))


def thinned(queries: Sequence[Query], most: int) -> list[Query]:
    """At most so many queries of an intent, the same ones every time."""
    seen, kept = Counter[str](), list[Query]()
    for query in sorted(queries, key=lambda query: sha256(query.text.encode()).digest()):
        seen[query.intent] += 1
        kept += [query] if seen[query.intent] <= most else []
    return kept


def first_model(known: Sequence[Query], folder: Path, seed: int, epochs: float) -> Ref:
    """The model that knows these queries: trained once a seed, shared by all learners."""
    ref = Ref(name=f"bank@{seed:012d}", folder=str(folder))
    if not (folder / "done").exists():
        pairs = [(query.text, bank.answer(query)) for query in known]
        words = base.tokenizer([text for pair in pairs for text in pair], SHAPE.vocabulary)
        steps = round(len(pairs) * epochs / 32)
        recipe = base.Recipe(steps=steps, batch=32, rate=4e-3, seed=seed, drop=0.15)
        base.save(base.fit(base.model(SHAPE, words, seed), base.encode(words, pairs), recipe), words, folder)
        (folder / "done").touch()
    return ref


def course(world: World, learner: Learner, tell: Callable[[str], None]) -> dict[str, Any]:
    """A learner's whole way: for every step which test queries it answers right, what it read and took.

    `tokens` are those that it learned from, `asked` those that the champion was asked about before the first step.
    """
    torch.set_num_threads(1)
    champion, steps = world.first, [_known(world, world.first, 0)]
    for step in learner.steps:
        lines = _lines(world, learner, step)
        start = world.first if learner.joint else champion
        began = perf_counter()
        champion, read, asked = _updated(world, learner, step, start, lines)
        facts = {"lines": len(lines), "tokens": read, "asked": asked, "seconds": round(perf_counter() - began, 1)}
        steps.append({**_known(world, champion, step), **facts})
        shares = "  ".join(f"{100 * share:5.1f}" for share in accuracies(steps[-1]))
        tell(f"{learner.name:14} {step}  {shares}   {read / 1000:6.0f}k tokens {facts['seconds']:6.1f} s")
    return {"learner": learner.name, "seed": world.seed, "steps": steps}


def accuracies(step: Mapping[str, Any]) -> list[float]:
    """Share of test queries answered right, a domain each."""
    return [marks.count("1") / len(marks) for marks in step["right"]]


def tokens_of_all(spec: Spec, step: int) -> int:
    """Tokens of one look at every training query of the domains that are known after a step."""
    data = queries(spec.intents, spec.most, validate=spec.validate)
    examples = [Example("sft", tuple(tiny.ask(q.text)), bank.answer(q)) for q in data.of(range(bank.KNOWN + step))]
    return sum(one.cost for one in tokens.encode(open_tokenizer(first(spec)), examples, SHAPE.context)[0])


def _lines(world: World, learner: Learner, step: int) -> list[dict[str, Any]]:
    """What a step reads: its domain's queries, and a draw of the old ones as `feedback.dataset` would make it."""
    arriving = bank.KNOWN + step - 1
    if learner.joint:
        return [_line(query, "new") for query in world.data.of(range(arriving + 1))]
    new, old = world.data.of([arriving]), world.data.of(range(arriving))
    count = quotas(len(new), MixtureShares(replay=learner.replay), world.seed).replay
    aged = [replay.Old(seq, topic(query.text)) for seq, query in enumerate(old)]
    drawn = replay.order(aged, world.seed + step)[:count]
    weight = MUTE if learner.mute else 1.0
    return [_line(query, "new") for query in new] + [_line(old[seq], "replay", weight=weight) for seq in drawn]


def _line(query: Query, origin: str, **more: Any) -> dict[str, Any]:
    return tiny.line("sft", query.text, bank.answer(query), origin=origin, **more)


def _updated(
    world: World, learner: Learner, step: int, start: Ref, lines: Sequence[Mapping[str, Any]]
) -> tuple[Ref, int, int]:
    """An update as the daemon's child makes it: a job with a training file, a champion and options."""
    folder = world.folder / learner.name / str(step)
    folder.mkdir(parents=True, exist_ok=True)
    base = Ref(world.first.name, start.base or start.folder)
    inputs = {
        "dataset": tiny.write_lines(folder / "train.jsonl", [dict(line) for line in lines]),
        "champion": start.to_json(),
        "base": base.to_json(),
        "depth": 0 if learner.joint or not start.base else step - 1,
        "options": dict(learner.options),
    }
    job = Job(f"{learner.name}-{step}", "train", inputs, world.seed, 0.0, folder)
    job.output.mkdir(exist_ok=True)
    result = (full if learner.full else lora).train(job)
    stages = result["metrics"]["stages"].values()
    ref = Ref(f"{world.first.name}-{step}", str(job.output), base="" if result["kind"] == "base" else base.folder)
    return ref, int(result["tokens"]), sum(stage["asked"] for stage in stages)


@torch.inference_mode()
def _known(world: World, ref: Ref, step: int) -> dict[str, Any]:
    """A mark for every test query of every domain that has arrived: 1 where it is answered right."""
    tokenizer, model = open_tokenizer(ref), open_weights(ref).eval()
    read = packing.reader(model, tokenizer.pad_token_id)
    right = []
    for domain in range(bank.KNOWN + step):
        documents = [
            (prompt_tokens(tokenizer, tiny.ask(query.text)), [completion_tokens(tokenizer, bank.answer(query))])
            for query in world.data.of([domain], test=True)
        ]
        marks = []
        for start in range(0, len(documents), BLOCK):
            some = documents[start : start + BLOCK]
            said = read(model, some, packing.plain).argmax(-1).tolist()
            for _, (answer,) in some:
                marks.append("1" if said[: len(answer)] == answer else "0")
                said = said[len(answer) :]
        right.append("".join(marks))
    return {"right": right}


def first(spec: Spec) -> Ref:
    """The entry of a process: a seed's first model."""
    torch.set_num_threads(1)
    data = queries(spec.intents, spec.most, validate=spec.validate)
    return first_model(data.of(range(bank.KNOWN)), spec.folder / f"first-{spec.seed}", spec.seed, spec.epochs)


def run(spec: Spec) -> dict[str, Any]:
    """The entry of a process: one learner of one seed; what it found is kept, and not made again."""
    kept = spec.folder / f"{spec.learner.name}-{spec.seed}.json"
    if not kept.exists():
        data = queries(spec.intents, spec.most, validate=spec.validate)
        world = World(data, first(spec), spec.seed, spec.folder / f"seed-{spec.seed}")
        kept.write_text(json.dumps(course(world, spec.learner, tell)), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def tell(line: str) -> None:
    """A line on standard output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
