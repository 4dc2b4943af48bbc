"""The lines of train.jsonl as values.

Owns: reading and checking them. Refuses to know tokens and models. Called by every training method.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from policies.errors import Corrupt, Refused

OBJECTIVES = ("sft", "pair", "kto")


@dataclass(frozen=True, slots=True)
class Example:
    """One line: `messages` end before the answer; `rejected` belongs to a pair, `label` to kto; `weight` > 0.

    `original`: the answer that an sft line corrects, where the file has their pair (see `paired`).
    """

    objective: str
    messages: tuple[dict[str, str], ...]
    completion: str
    rejected: str = ""
    label: bool = True
    weight: float = 1.0
    origin: str = "new"
    original: str = ""


def read(path: str | Path) -> tuple[Example, ...]:
    """All examples of a training file that weigh anything.

    Raises: Refused, when there are none; Corrupt, when the file is missing or a line is none of ours.
    """
    try:
        lines = [line for line in Path(path).read_text("utf-8").split("\n") if line]  # U+2028 ends no line of JSON
    except OSError as problem:
        raise Corrupt(f"no training file: {problem}", hint="build the dataset again") from problem
    examples = tuple(_checked(lines, Path(path)))
    if not examples:
        raise Refused("the training set is empty", hint="collect more usable records, or raise the replay share")
    return examples


def answers(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """What can be learned as an answer to imitate: sft lines, and the praised ones of kto."""
    return tuple(example for example in examples if example.objective == "sft" or _praised(example))


def paired(examples: Iterable[Example]) -> tuple[Example, ...]:
    """The same examples; an sft line that is also the better half of a pair knows what it corrects."""
    some = tuple(examples)
    originals = {(_asked(one), one.completion): one.rejected for one in some if one.objective == "pair"}
    return tuple(
        replace(one, original=originals.get((_asked(one), one.completion), "")) if one.objective == "sft" else one
        for one in some
    )


def preferred(pairs: Iterable[Example], beside: Iterable[Example]) -> tuple[Example, ...]:
    """The better answers of pairs to imitate, without those that are there already: a correction comes as both."""
    there = {(_asked(one), one.completion) for one in beside}
    better = (replace(one, objective="sft", rejected="") for one in pairs)
    return tuple(one for one in better if (_asked(one), one.completion) not in there)


def _asked(example: Example) -> str:
    return json.dumps(example.messages)


def _praised(example: Example) -> bool:
    return example.objective == "kto" and example.label


def _checked(lines: list[str], path: Path) -> Iterator[Example]:
    for number, line in enumerate(lines, 1):
        try:
            example = _example(json.loads(line))
        except (ValueError, KeyError, TypeError) as problem:
            hint = "train.jsonl is written by feedback.dataset; build the dataset again"
            raise Corrupt(f"{path.name} line {number}: {problem}", hint=hint) from problem
        if example.weight > 0 and example.messages and example.completion:
            yield example


def _example(body: dict[str, Any]) -> Example:
    objective = body["objective"]
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is none of {', '.join(OBJECTIVES)}")
    messages = tuple({"role": str(m["role"]), "content": str(m["content"])} for m in body["messages"])
    label = body.get("label")
    return Example(
        objective=objective,
        messages=messages,
        completion=str(body["completion"]),
        rejected=str(body.get("rejected") or ""),
        label=True if label is None else bool(label),
        weight=float(body.get("weight", 1.0)),
        origin=str(body.get("origin", "new")),
    )
