"""One record or anchor item -> the lines of a training file that it is worth.

Owns: what a correction, a pair, a rating teaches, and the prompt that a model is asked. Refuses to know which records
were chosen (`feedback.dataset`). Called by `feedback.dataset`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from feedback.tables import Record

DAY = 86400.0

Origin = Literal["new", "replay", "anchor"]


@dataclass(frozen=True, slots=True)
class Line:
    """One example: `messages` is the prompt; `rejected` is set for a pair, `label` for a kto example."""

    seq: int | None
    objective: Literal["sft", "pair", "kto"]
    messages: list[dict[str, str]]
    completion: str
    rejected: str | None
    label: bool | None
    weight: float
    origin: Origin


def of_record(record: Record, origin: Origin, latest: float, half_life_days: float) -> Iterator[Line]:
    """What one record teaches, by its `usable` signal; its weight halves in `half_life_days` before `latest`.

    A correction is an answer to imitate and an edit to prefer over the original; a rating labels the answer (KTO,
    Ethayarajh et al. 2024, arXiv 2402.01306), and a method may imitate the good ones.
    """
    body, messages = record.body, prompt(record.body)
    weight = round(record.weight * 0.5 ** ((latest - record.time) / DAY / half_life_days), 6)
    response = str(body.get("response") or "")
    if record.usable == "correction" and (edit := str(body.get("correction") or "")):
        yield Line(record.seq, "sft", messages, edit, None, None, weight, origin)
        if response and response != edit:
            yield Line(record.seq, "pair", messages, edit, response, None, weight, origin)
    elif record.usable == "pair" and (better := str(body.get("preferred") or "")):
        yield Line(record.seq, "pair", messages, better, str(body.get("rejected") or ""), None, weight, origin)
    elif record.usable in ("positive", "negative") and response:
        yield Line(record.seq, "kto", messages, response, None, record.usable == "positive", weight, origin)


def of_anchor(item: dict[str, Any]) -> Line:
    """An anchor item: its reference is the answer to imitate."""
    return Line(None, "sft", prompt(item), str(item["reference"]), None, None, 1.0, "anchor")


def prompt(body: dict[str, Any]) -> list[dict[str, str]]:
    """The chat up to the answer: role and content only."""
    messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in body.get("messages") or []]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    return messages
