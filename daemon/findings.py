"""What the configuration's files say by themselves: findings, each with what to do, and nothing started.

Owns: `Finding`, and the checks of settings, policies and model folders. Refuses to touch the database, the network and
the machine (`daemon.doctor`). Called by `daemon.ctl.care` and `daemon.doctor`.
A check never raises one of the four errors: it becomes a finding, and the next check still runs.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from daemon import artifact
from daemon.config import Deployment, Settings, load, load_policy, usable_policy
from daemon.policyfile import probe_options
from policies import gates
from policies.errors import LearndError
from policies.policy import Policy

T = TypeVar("T")

OK, NOTE, ERROR = "ok", "note", "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """`level`: ok, note (works, but look) or error (does not work until somebody acts)."""

    check: str
    level: str
    message: str
    hint: str = ""


def worst(found: Iterable[Finding]) -> str:
    """The gravest level among the findings."""
    levels = {finding.level for finding in found}
    return next((level for level in (ERROR, NOTE) if level in levels), OK)


def check_files(path: Path) -> list[Finding]:
    """What the configuration's files say by themselves: settings, policies, model folders. Nothing is started."""
    found: list[Finding] = []
    settings = tried(found, "configuration", lambda: load(path))
    if settings is None:
        return found
    names = ", ".join(sorted(settings.deployments))
    found.append(Finding("configuration", OK, f"{path}: {len(settings.deployments)} deployments ({names})"))
    if not settings.sources:
        found.append(
            Finding("sources", NOTE, "no source is configured", "add [[sources]], or learnctl feedback import")
        )
    for deployment in settings.deployments.values():
        found += _files_of(deployment)
    return found


def policies_of(settings: Settings) -> dict[str, Policy]:
    """The policies that can be read, by deployment; the others are findings of `check_files`."""
    read = {name: tried([], "policy", partial(load_policy, each.policy)) for name, each in settings.deployments.items()}
    return {name: policy for name, policy in read.items() if policy is not None}


def tried(found: list[Finding], check: str, work: Callable[[], T]) -> T | None:
    """What `work` gives; where it raises one of the four, that is a finding, and None."""
    try:
        return work()
    except LearndError as error:
        found.append(Finding(check, ERROR, str(error), error.hint))
        return None


def _files_of(deployment: Deployment) -> Iterator[Finding]:
    found: list[Finding] = []
    policy = tried(found, "policy", lambda: usable_policy(deployment.policy))
    yield from found
    if policy is not None:
        yield Finding(
            "policy", OK, f"{deployment.name}: {policy.name}, mode {policy.mode.value}, hash {policy.hash[:12]}"
        )
        yield from _gates(deployment, policy)
        yield from _tasks(deployment, policy)
    if deployment.consent_default is None:
        yield Finding(
            "consent",
            NOTE,
            f"{deployment.name} has no consent_default: records that name no consent are only measured",
            f'set deployments.{deployment.name}.consent_default to "none", "tenant" or "shared"',
        )
    yield from _model(deployment)


def _gates(deployment: Deployment, policy: Policy) -> Iterator[Finding]:
    for name in gates.NAMES:
        if name not in policy.gates:
            hint = f"add [gates.{name}]; its defaults will do"
            yield Finding("policy", ERROR, f"{deployment.name}: no [gates.{name}], so every candidate is refused", hint)
        elif not gates.enabled(policy.gates, name):
            yield Finding("policy", NOTE, f"{deployment.name}: the gate {name} is switched off", "nothing checks it")


def _tasks(deployment: Deployment, policy: Policy) -> Iterator[Finding]:
    """The harness's tasks that may be missing unseen."""
    tasks, gate = probe_options(policy, "lm_eval").tasks, policy.gates.get("retention")
    if gate is None or not gates.enabled(policy.gates, "retention"):
        return
    loose = [name for name in tasks if name not in gate.required]
    if loose:
        said = f"{deployment.name}: a task that can't be measured would not refuse: {', '.join(loose)}"
        whole = ", ".join(f'"{name}"' for name in (*gate.required, *loose))
        yield Finding("policy", NOTE, said, f"write required = [{whole}] into [gates.retention]")


def _model(deployment: Deployment) -> Iterator[Finding]:
    """Whether the model's folder could be adopted: allowed files, weights, tokenizer, a pad token of its own."""
    folder, check = deployment.model, "model"
    found: list[Finding] = []

    def look() -> list[str]:
        files = [path.relative_to(folder).as_posix() for path in artifact.walk(folder)]
        for name in files:
            artifact.check_file(folder / name, name)
        return files

    files = tried(found, check, look)
    yield from found
    if files is None:
        return
    if "answers.json" in files:
        yield Finding(check, OK, f"{deployment.name}: {folder} is an echo model")
        return
    if not any(name.endswith(".safetensors") for name in files) or "config.json" not in files:
        yield Finding(
            check, ERROR, f"{folder} holds no weights with their config.json", "write it with save_pretrained"
        )
    elif not any(name in files for name in artifact.TOKENIZER):
        yield Finding(check, ERROR, f"{folder} has no tokenizer", "tokenizer.save_pretrained into the same folder")
    else:
        yield from _pad(deployment)


def _pad(deployment: Deployment) -> Iterator[Finding]:
    """A pad token that is the end token teaches a model never to end, or never to be heard."""
    told: dict[str, Any] = {}
    for name in ("config.json", "special_tokens_map.json", "tokenizer_config.json"):
        path = deployment.model / name
        if path.is_file():
            told |= json.loads(path.read_text("utf-8"))
    pad, end = _token(told.get("pad_token")), _token(told.get("eos_token"))
    if not pad or pad == end:
        said = "is the end token" if pad else "is missing"
        hint = "give the tokenizer a pad token of its own, and save model and tokenizer again"
        yield Finding("model", ERROR, f"{deployment.name}: the pad token {said}", hint)
    else:
        yield Finding("model", OK, f"{deployment.name}: {deployment.model}")


def _token(value: object) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")
