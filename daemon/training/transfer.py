"""What a teacher hands to a student: prompts, answers, and what the teacher thinks of every token of them.

Owns: which prompts and answers are taken, that both sides speak the same tokens, and the name of a cached lesson.
Refuses to know how a student is trained. Called by `distill`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from daemon.jobs import read_json, write_json
from daemon.models import Conversation, Ref
from daemon.training import softtargets
from daemon.training.examples import Example, answers
from daemon.training.meter import Meter
from daemon.training.packing import padded
from daemon.training.softtargets import SoftTargets
from daemon.transformers_model import (
    TransformersModel,
    completion_tokens,
    open_tokenizer,
    outline,
    prompt_text,
    prompt_tokens,
)
from policies.errors import Corrupt, Refused

ANSWERS = "answers.json"


@dataclass(frozen=True, slots=True)
class Request:
    """How the teacher is asked: see `distill.Options`; `context` in tokens, `cache` the folder of all lessons."""

    teacher: Ref
    device: str
    answers: str
    top: int
    max_new_tokens: int
    context: int
    cache: Path


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to learn: token ids of the student's prompt, of the teacher's, of the answer with its end token."""

    prompt: list[int]
    asked: list[int]
    answer: list[int]
    reference: bool


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows and their soft targets, in the same order; ids below `vocabulary` are compared. `hit`: nothing was asked."""

    rows: list[Row]
    targets: list[SoftTargets]
    vocabulary: int
    dropped: int
    key: str
    hit: bool


def prompts(examples: tuple[Example, ...], more: str | None = None) -> list[tuple[Conversation, str]]:
    """Distinct (conversation, recorded answer or "") of a training set, in its order, and those of a file of prompts.

    Of several recorded answers the heaviest is taken, then the first. Raises: Corrupt, when the file is none of ours.
    """
    found: dict[str, tuple[Conversation, str, float]] = {}
    for example in examples:
        found.setdefault(json.dumps(example.messages), (example.messages, "", 0.0))
    for example in answers(examples):
        key = json.dumps(example.messages)
        if example.weight > found[key][2]:
            found[key] = (example.messages, example.completion, example.weight)
    for messages in _file(Path(more)) if more else []:
        found.setdefault(json.dumps(messages), (messages, "", 0.0))
    return [(messages, answer) for messages, answer, _ in found.values()]


def _file(path: Path) -> list[Conversation]:
    try:
        return [json.loads(line)["messages"] for line in path.read_text("utf-8").split("\n") if line]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        hint = 'one {"messages": [...]} a line'
        raise Corrupt(f"no prompts in {path.name}: {problem}", hint=hint) from problem


def common_vocabulary(tokenizer: Any, student: Any, teacher: Ref) -> int:
    """Ids that both models know; what families pad their embeddings with is cut off (trl#2215).

    Raises: Refused, when the two tokenizers are not the same.
    """
    other = open_tokenizer(teacher)
    mine, theirs = tokenizer.get_vocab(), other.get_vocab()
    if mine != theirs or tokenizer.eos_token_id != other.eos_token_id:
        differ = len(set(mine.items()) ^ set(theirs.items()))
        raise Refused(
            f"the teacher speaks {len(theirs):,} tokens, the student {len(mine):,}, {differ:,} of which differ",
            hint='take a teacher with the student\'s own tokenizer (its family, or "self")',
        )
    sizes = [config.get_text_config().vocab_size for config in (outline(teacher).config, student.config)]
    return int(min(sizes))


def lesson(
    request: Request, asked: Sequence[tuple[Conversation, str]], tokenizer: Any, vocabulary: int, meter: Meter
) -> Lesson:
    """Let the teacher answer and think aloud once; later calls with the same inputs read what was kept.

    Raises: Refused, when no prompt and answer fit into the context; Misconfigured, Transient from loading the teacher.
    """
    other = open_tokenizer(request.teacher)
    key = _key(request, asked, tokenizer, other)
    folder = request.cache / key
    kept = read_json(folder / ANSWERS)
    if kept is not None and kept["whole"]:
        rows, dropped = _rows(request, asked, kept["said"], tokenizer, other)
        targets = softtargets.kept(folder, [len(row.answer) for row in rows])
        return Lesson(rows, targets, vocabulary, dropped, key, hit=True)
    model = TransformersModel.load(request.teacher, device=request.device)
    said = kept["said"] if kept is not None else _said(request, model, asked)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ANSWERS, {"said": said, "whole": False})
    rows, dropped = _rows(request, asked, said, tokenizer, other)
    pairs = [(row.asked, row.answer) for row in rows]
    read = partial(padded, pad=tokenizer.pad_token_id)
    targets = softtargets.keep(folder, model.model, read, pairs, vocabulary, request.top, meter)
    write_json(folder / ANSWERS, {"said": said, "whole": True})
    return Lesson(rows, targets, vocabulary, dropped, key, hit=False)


def _said(request: Request, model: TransformersModel, asked: Sequence[tuple[Conversation, str]]) -> list[str]:
    """The text to learn for every prompt: recorded where that is wanted and there is one, else the teacher's own."""
    said = [answer if request.answers == "reference" else "" for _, answer in asked]
    open_ones = [number for number, text in enumerate(said) if not text]
    texts = model.answer([asked[number][0] for number in open_ones], max_new_tokens=request.max_new_tokens)
    for number, text in zip(open_ones, texts, strict=True):
        said[number] = text
    return said


def _rows(
    request: Request, asked: Sequence[tuple[Conversation, str]], said: Sequence[str], tokenizer: Any, other: Any
) -> tuple[list[Row], int]:
    rows = []
    for (messages, recorded), text in zip(asked, said, strict=True):
        prompt, theirs = prompt_tokens(tokenizer, messages), prompt_tokens(other, messages)
        answer = completion_tokens(tokenizer, text)
        if max(len(prompt), len(theirs)) + len(answer) <= request.context:
            reference = request.answers == "reference" and bool(recorded)
            rows.append(Row(prompt, theirs, answer, reference))
    if not rows:
        hint = "raise max_length, lower max_new_tokens, or take a base with a longer context"
        raise Refused(f"no prompt and answer fit into {request.context} tokens", hint=hint)
    return rows, len(asked) - len(rows)


def _key(request: Request, asked: Sequence[tuple[Conversation, str]], tokenizer: Any, other: Any) -> str:
    """The name of a lesson: everything that it depends on, hashed."""
    digest = hashlib.sha256()
    folders = [request.teacher.folder, request.teacher.base]
    for path in sorted(path for folder in folders if folder for path in Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for one in (tokenizer, other):
        digest.update(hashlib.sha256(json.dumps(sorted(one.get_vocab().items())).encode()).digest())
        digest.update(hashlib.sha256(str(one.chat_template).encode()).digest())
        digest.update(one.backend_tokenizer.to_str().encode() if one.is_fast else b"")
    settings = [request.answers, request.top, request.max_new_tokens, request.context]
    texts = [
        [prompt_text(other, messages), answer if request.answers == "reference" else ""] for messages, answer in asked
    ]
    digest.update(json.dumps([settings, texts]).encode())
    return digest.hexdigest()[:24]
