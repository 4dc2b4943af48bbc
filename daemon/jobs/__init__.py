"""Work that takes longer than a tick: what a job is, what its child gets, and the files both sides talk by.

Owns: `JobSpec`, `Job`, the `Jobs` protocol, and a job's folder. Refuses to know what jobs do, and any clock. Called by
`daemon.act` and `daemon.observe` (through a `Jobs`), and by whatever runs in the child (through a `Job`).

A job's folder: job.json (the spec and the attempt, first), progress.json, log (what the child printed), checkpoint/
(outlives an attempt), output/ (what it made), cost.json (what its attempts took; outlives them), and at the end
error.json or result.json (last, so that a result means that all else is there). Every JSON file is replaced atomically.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from policies.errors import Corrupt, Refused
from policies.model import JobView

JOB, PROGRESS, RESULT, ERROR, LOG = "job.json", "progress.json", "result.json", "error.json", "log"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What is asked for. `entry` is "module:function" of `(Job) -> dict`; `inputs` are JSON values.

    `kind` (train, evaluate, prove, drift) chooses the warm worker; `deadline` is unix seconds (0: none); `device` is
    cpu, gpu or any.
    """

    key: str
    kind: str
    entry: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    deadline: float = 0.0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Job:
    """What the child gets. It writes what it made into `output` and returns its result, JSON values."""

    key: str
    kind: str
    inputs: Mapping[str, Any]
    seed: int
    deadline: float
    folder: Path
    device: str = "cpu"
    attempt: int = 1

    @property
    def output(self) -> Path:
        """Where what the job makes goes: empty at the start of every attempt."""
        return self.folder / "output"

    @property
    def checkpoint(self) -> Path:
        """Where a resumable job keeps its state: outlives an attempt."""
        return self.folder / "checkpoint"

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Tell where the job stands: one line for people, and a share of 1 where it is known."""
        write_json(self.folder / PROGRESS, {"text": text, "fraction": fraction})


class Jobs(Protocol):
    """Starts, finds and cancels jobs by key. None of the calls waits for a job."""

    def start(self, spec: JobSpec) -> None:
        """Start a job unless it runs or is done; one that failed or is absent starts again on its checkpoint."""
        ...

    def find(self, key: str) -> JobView:
        """How the job stands: running, done, failed or absent."""
        ...

    def cancel(self, key: str) -> None:
        """End a running job; it is absent afterwards. No effect on any other."""
        ...

    def result(self, key: str) -> dict[str, Any]:
        """The result of a job that is done. Raises: Refused, when it isn't."""
        ...

    def folder(self, key: str) -> Path:
        """Where the job's files lie (its output is in `output`)."""
        ...

    def close(self) -> None:
        """Let the warm workers go. Running jobs run on and are found again."""
        ...


def folder_of(root: Path, key: str) -> Path:
    """A job's folder: its key with everything but letters, digits, "-", "_", "~" and inner dots escaped."""
    name = quote(key, safe="")
    if not key or len(name) > 200:
        raise Refused(f"no key for a job: {key!r}", hint="1 to 200 characters")
    return root / (name.replace(".", "%2E") if name.startswith(".") else name)


def prepare(folder: Path, spec: JobSpec, started: float) -> int:
    """Lay out a job's folder for its next attempt, whose number is returned; the checkpoint stays."""
    folder.mkdir(parents=True, exist_ok=True)
    before = read_json(folder / JOB)
    attempt = int(before["attempt"]) + 1 if before else 1
    for name in (RESULT, ERROR, PROGRESS):
        (folder / name).unlink(missing_ok=True)
    body = {**asdict(spec), "inputs": dict(spec.inputs), "attempt": attempt, "started": started}
    write_json(folder / JOB, body, durable=True)
    return attempt


def job_in(folder: Path) -> tuple[Job, str]:
    """The job that a folder describes, and its entry. Raises: Corrupt, when there is none."""
    body = read_json(folder / JOB)
    if body is None:
        raise Corrupt(f"no job in {folder}", hint="job.json is written before anything starts")
    taken = {name: body[name] for name in ("key", "kind", "inputs", "seed", "deadline", "device", "attempt")}
    return Job(folder=folder, **taken), str(body["entry"])


def view(folder: Path, key: str, *, alive: bool) -> JobView:
    """What a job's files say, `alive` being what its process says."""
    body = read_json(folder / JOB)
    if body is None:
        return JobView(key=key, kind="", state="absent")
    result, error = read_json(folder / RESULT), read_json(folder / ERROR)
    state = "done" if result is not None else "failed" if error is not None else "running" if alive else "absent"
    progress, error = read_json(folder / PROGRESS) or {}, error or {}
    if error.get("hint"):
        error["message"] = f"{error['message']} (hint: {error['hint']})"
    return JobView(
        key=key,
        kind=str(body["kind"]),
        state=state,
        started=float(body["started"]),
        deadline=float(body["deadline"]),
        progress=str(progress.get("text", "")),
        error=str(error.get("message", "")),
        error_kind=str(error.get("kind", "")),
        result={name: str(value) for name, value in (result or {}).items() if isinstance(value, str | int | float)},
    )


def result_in(folder: Path, key: str) -> dict[str, Any]:
    """The result of a finished job. Raises: Refused, when there is none."""
    result = read_json(folder / RESULT)
    if result is None:
        raise Refused(f"job {key} has no result", hint="only a job that is done has one: look at its state first")
    return result


def write_json(path: Path, value: Mapping[str, Any], *, durable: bool = False) -> None:
    """Replace a file atomically; `durable` also survives a power cut."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file. Raises: Corrupt."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as problem:
        raise Corrupt(
            f"{path} is no JSON: {problem}", hint="it is only ever replaced whole; look at the disk"
        ) from problem
    if not isinstance(value, dict):
        raise Corrupt(f"{path} holds no object", hint="it is only ever replaced whole; look at the disk")
    return value
