"""The proof of serving: the target is asked what candidate and champion answer differently, and answers as recorded.

Owns: the comparison. Refuses to believe what a target says of itself alone, and to decide what follows. Called by
`daemon.jobs`, in the child, with inputs {"target": {"kind", "options"}, "version", "prompts", "max_new_tokens"}; the
prompts are a distinct.jsonl of `daemon.evaluation`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daemon import targets
from daemon.config import TargetSettings
from daemon.jobs import Job
from daemon.targets import Target
from policies.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Recorded:
    """A prompt, and what each of two versions answered to it when they were evaluated."""

    messages: list[dict[str, str]]
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Proof:
    """Of `asked` prompts `matched` were answered as the version does and `like_champion` as the other version does."""

    asked: int
    matched: int
    like_champion: int
    serves: bool
    reason: str


def inputs(target: TargetSettings, version: str, prompts: str, max_new_tokens: int) -> dict[str, Any]:
    """What a job of `run` is given; the target's options as JSON, since they travel to the child that asks it."""
    names = getattr(target.options, "__dataclass_fields__", {})
    plain = json.loads(json.dumps({name: getattr(target.options, name) for name in names}, default=str))
    given = {"target": {"kind": target.kind, "options": plain}, "version": version, "prompts": prompts}
    return {**given, "max_new_tokens": max_new_tokens}


def run(job: Job) -> dict[str, Any]:
    """Ask the target and compare: {"asked", "matched", "like_champion", "serves", "reason"}.

    Raises: Transient where the target is away, Misconfigured where the prompts aren't the version's.
    """
    given = job.inputs["target"]
    target = targets.connect(given["kind"], given["options"])
    prompts = read(Path(job.inputs["prompts"]))
    job.progress(f"asking the target on {len(prompts)} prompts")
    return asdict(prove(target, str(job.inputs["version"]), prompts, int(job.inputs["max_new_tokens"])))


def prove(target: Target, version: str, prompts: list[Recorded], max_new_tokens: int) -> Proof:
    """Whether the target serves `version`: it says so before and after, and every answer is the recorded one.

    Raises: Transient where the target is away, Misconfigured where a prompt has no answer of `version`.
    """
    if any(version not in prompt.answers for prompt in prompts):
        hint = "prove with the distinct.jsonl of the evaluation that measured it"
        raise Misconfigured(f"no answer of {version} was recorded for these prompts", hint=hint)
    if not prompts:
        return Proof(0, 0, 0, serves=False, reason="no recorded prompt tells the versions apart")
    if version not in (shares := target.serving().shares):
        return Proof(0, 0, 0, serves=False, reason=f"the target says that it serves {_named(shares)}")
    said = target.answer([prompt.messages for prompt in prompts], version, max_new_tokens=max_new_tokens).texts
    pairs = list(zip(prompts, said, strict=True))
    matched = sum(text == prompt.answers[version] for prompt, text in pairs)
    others = sum(
        any(text == answer for name, answer in prompt.answers.items() if name != version) for prompt, text in pairs
    )
    if version not in (shares := target.serving().shares):
        return Proof(len(said), matched, others, serves=False, reason=f"the target went over to {_named(shares)}")
    serves = matched == len(said)
    reason = f"{matched} of {len(said)} recorded prompts answered as {version} does"
    return Proof(len(said), matched, others, serves, reason)


def read(path: Path) -> list[Recorded]:
    """The recorded prompts of a distinct.jsonl.

    Raises: Misconfigured where the file can't be read.
    """
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        return [Recorded(line["messages"], line["answers"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Misconfigured(f"{path} holds no recorded prompts: {error}", hint="evaluate the version again") from error


def _named(shares: Mapping[str, float]) -> str:
    return ", ".join(sorted(shares)) or "nothing"
