"""The contract of a probe: one file here offers `Options` and `measure(version, items, options) -> list[Measurement]`.

`LOOSER` says which change of an option lets more through, as that of a gate (`policies.loosening`).

A probe runs a version and says what came out; whether that is good enough is a gate's to say. Owns: `Item`, `Probed`
(a version that remembers what it said), the whitelist. Refuses to know gates, thresholds and files. Called by
`daemon.evaluation`, in the job's process.

| probe       | set            | item          | value                                                              |
|-------------|----------------|---------------|--------------------------------------------------------------------|
| goldens     | the set's name | the item's id | score in [0, 1]; `goldens_judge_error`, `goldens_judge_labels`      |
| safety      | the set's name | the item's id | 1.0 where it behaved as it must; `safety_unsafe`: mean nats a token |
| retention   | the set's name | the item's id | score in [0, 1]; `retention_logprob`: mean nats a token            |
| improvement | judge          | the record    | score in [0, 1] against what the user wanted                       |
| lm_eval     | task@digest    | the document  | score in [0, 1]; the slice is the task                             |
| budget      | budget         | a quantity    | latency_ms, size_bytes, memory_bytes, tokens_per_second            |
"""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from daemon.codec import canonical
from daemon.models import Model, Ref
from daemon.probes import checks, likelihood, texts
from policies.errors import Corrupt, Misconfigured
from policies.model import Measurement

NAMES = ("budget", "goldens", "improvement", "lm_eval", "retention", "safety")
CHUNK = 256  # prompts between two notes of progress

Message = Mapping[str, str]
Report = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt and how its answer is scored: by `check` (kind and value), or against `reference` where it is empty.

    `rejected` is an answer that a user turned down; `completion` a text whose log-probability is asked for; `unsafe` an
    answer that must not become likelier.
    """

    set: str
    id: str
    messages: tuple[Message, ...]
    slice: str = ""
    check: str = ""
    value: Any = None
    reference: str = ""
    rejected: str = ""
    unsafe: str = ""
    completion: str | None = None

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The conversation as a model takes it: [{"role", "content"}, …], the last one the user's."""
        return [dict(message) for message in self.messages]


@dataclass
class Probed:
    """A loaded version that is asked each prompt once and remembers what it said.

    `said` is (set, item) -> answer, `report` hears of every few prompts that were answered, `stopwatch` gives seconds
    from any beginning.
    """

    ref: Ref
    model: Model
    max_new_tokens: int
    environment: str = ""
    report: Report = lambda _count: None
    stopwatch: Callable[[], float] = time.perf_counter
    said: dict[tuple[str, str], str] = field(default_factory=dict)
    _answers: dict[bytes, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The version's name."""
        return self.ref.name

    def answer(self, items: Sequence[Item]) -> list[str]:
        """The greedy answer to each item, in order."""
        keys = [canonical(item.prompt) for item in items]
        unasked = {key: item.prompt for key, item in zip(keys, items, strict=True) if key not in self._answers}
        # Prompts of like length together, so that hardly anything is padded.
        new = sorted(unasked.items(), key=lambda pair: sum(len(turn["content"]) for turn in pair[1]))
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            said = self.model.answer([prompt for _, prompt in chunk], max_new_tokens=self.max_new_tokens)
            self._answers.update(zip((key for key, _ in chunk), said, strict=True))
            self.report(len(chunk))
        answers = [self._answers[key] for key in keys]
        self.said.update({(item.set, item.id): text for item, text in zip(items, answers, strict=True)})
        return answers

    def sample(self, items: Sequence[Item], seed: int) -> list[str]:
        """One sampled answer (temperature 1) to each item, in order, the same for the same seed."""
        prompts = [item.prompt for item in items]
        return list(self.model.answer(prompts, max_new_tokens=self.max_new_tokens, sample=True, seed=seed))

    def nats(self, asked: Sequence[tuple[Item, str]]) -> list[tuple[float, int]]:
        """(log-probability in nats, tokens) of each text as the answer to its item, its end token with it."""
        found: list[tuple[float, int]] = []
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            found += self.model.logprobs([item.prompt for item, _ in chunk], [text for _, text in chunk])
        return found

    def close(self) -> None:
        """Let go of the model; what was said stays."""
        del self.model

    def measured(self, probe: str, item: Item, value: float, seed: int = 0) -> Measurement:
        """The measurement of `probe` on `item`."""
        return Measurement(probe, item.set, item.id, item.slice, self.name, value, seed, self.environment)


def load(name: str) -> ModuleType:
    """The probe's module.

    Raises: Misconfigured where there is no such probe.
    """
    if name not in NAMES:
        raise Misconfigured(f"there is no probe {name!r}", hint=f"one of: {', '.join(NAMES)}")
    return importlib.import_module(f"daemon.probes.{name}")


def item_from(set_name: str, body: Mapping[str, Any]) -> Item:
    """The item that one line of an exported set holds.

    Raises: Corrupt where the line was not written by this release.
    """
    try:
        given = body.get("check") or {}
        return Item(
            set=set_name,
            id=str(body["id"]),
            messages=tuple({"role": str(m["role"]), "content": str(m["content"])} for m in body["messages"]),
            slice=str(body.get("slice") or ""),
            check=str(given.get("kind", "")),
            value=given.get("value"),
            reference=str(body.get("reference") or ""),
            rejected=str(body.get("rejected") or ""),
            unsafe=str(body.get("unsafe") or ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"an item of {set_name} can't be read: {error}", hint="start the evaluation again") from error


def score(item: Item, answer: str, phrases: Sequence[str] = checks.REFUSALS) -> float:
    """The score in [0, 1] of `answer` on `item`.

    Raises: Refused where the item's check is not valid.
    """
    if item.check:
        return checks.check(item.check, item.value, answer, phrases)
    if not texts.normalise(item.reference):  # only punctuation: nothing to look for but itself
        return float(answer.strip() == item.reference.strip())
    return checks.check("reference", item.reference, answer)


def scored(probe: str, version: Probed, items: Sequence[Item], phrases: Sequence[str] = ()) -> list[Measurement]:
    """One measurement an item: the score of the version's greedy answer, or of likelihoods where the check reads those.

    `phrases` are refusals beside the usual. Behind them `<probe>_exposure`, the bits of each canary that is ranked.
    """
    known = (*checks.REFUSALS, *phrases)
    answers = version.answer(items)
    ranked = {item.id: likelihood.texts(item.check, item.value) for item in items if item.check in likelihood.KINDS}
    told = iter(version.nats([(item, text) for item in items for text in ranked.get(item.id, ())]))
    found, exposures = [], []
    for item, answer in zip(items, answers, strict=True):
        if item.check not in likelihood.KINDS:
            found.append(version.measured(probe, item, score(item, answer, known)))
            continue
        nats = list(islice(told, len(ranked[item.id])))
        found.append(version.measured(probe, item, likelihood.score(item.check, item.value, nats)))
        if item.check == "exposure":
            exposures.append(version.measured(f"{probe}_exposure", item, likelihood.exposure(nats)))
    return found + exposures


def folder_bytes(*folders: Path) -> int:
    """Bytes of all files below the folders."""
    return sum(path.stat().st_size for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
