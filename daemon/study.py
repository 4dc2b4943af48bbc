"""What an evaluation is about: versions, sets of items, options, and what is remembered of earlier answers.

Owns: reading a job's inputs and the exported sets, and the memory by content. Refuses to run a model. Called by
`daemon.evaluation`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from daemon import environment, probes
from daemon.codec import canonical
from daemon.jobs import Job
from daemon.models import Ref
from daemon.options import Place, build, refuse_unknown
from daemon.probes import Item, lm_eval
from policies.errors import Corrupt, Misconfigured, Refused

Row = dict[str, Any]
JUDGE, TASK = "judge", "task"
PROBE_OF = {
    "goldens": "goldens",
    "safety": "safety",
    "anchor": "retention",
    JUDGE: "improvement",
    TASK: "lm_eval",
}


@dataclass(frozen=True)
class ItemSet:
    """One set: its `role` says which probe asks it."""

    name: str
    role: str
    items: tuple[Item, ...]

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 (hex) of each item, of all that its answer depends on."""
        return tuple(
            hashlib.sha256(canonical({**asdict(item), "messages": item.prompt})).hexdigest() for item in self.items
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of name, role and items."""
        return hashlib.sha256(canonical([self.name, self.role, *self.hashes])).hexdigest()

    @property
    def seed(self) -> int:
        """A seed of the set itself: what is sampled on it is the same in every evaluation."""
        bare = replace(self, items=tuple(replace(item, completion=None) for item in self.items))
        return int(bare.hash[:8], 16) >> 1


@dataclass(frozen=True)
class Study:
    """All that an evaluation measures. `anchor` is None where it is one of the other two; `options` by probe."""

    candidate: Ref
    champion: Ref
    anchor: Ref | None
    sets: tuple[ItemSet, ...]
    options: Mapping[str, Any]
    max_new_tokens: int
    device: str
    memory: "Memory"

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The versions, each once."""
        anchor = (self.anchor,) if self.anchor else ()
        return (*{ref.name: ref for ref in (self.champion, self.candidate, *anchor)}.values(),)


@dataclass(frozen=True)
class Memory:
    """What a version said to an item before, by the hash of all that it depends on; None remembers nothing."""

    folder: Path | None

    def key(self, ref: Ref, asked: ItemSet, options: Any, max_new_tokens: int, ran: str) -> str:
        """SHA-256 (hex) of version, set's name and role, options, length, environment (`ran`) and our own code."""
        given = json.loads(json.dumps(asdict(options), default=str))
        parts = [ref.name, asked.name, asked.role, given, max_new_tokens, ran, environment.code_digest()]
        return hashlib.sha256(canonical(parts)).hexdigest()

    def get(self, key: str) -> dict[str, list[Row]]:
        """The remembered rows by the hash of their item.

        A file that can't be read is as good as none: the version is asked again.
        """
        path = self.folder / f"{key}.jsonl" if self.folder else None
        if path is None or not path.exists():
            return {}
        try:
            lines = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
            return {line["hash"]: line["rows"] for line in lines}
        except (ValueError, LookupError, TypeError):
            return {}

    def put(self, key: str, rows: Mapping[str, list[Row]]) -> None:
        """Remember the rows of these items, beside what is remembered already."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            whole = {**self.get(key), **rows}
            write_lines(self.folder / f"{key}.jsonl", [{"hash": name, "rows": each} for name, each in whole.items()])


def read(job: Job) -> Study:
    """The study that the job's inputs describe.

    Raises: Misconfigured (inputs or options), Corrupt (an exported set that can't be read).
    """
    given = job.inputs
    try:
        versions = {role: Ref.from_json(ref) for role, ref in given["versions"].items() if ref}
        files = [(str(s["name"]), str(s["role"]), Path(s["path"])) for s in given["sets"]]
        candidate, champion = versions["candidate"], versions["champion"]
    except (KeyError, TypeError) as error:
        raise Misconfigured(f"an evaluation lacks its input {error}", hint="this is learnd's own fault") from error
    if given.get("judge"):
        files.append((JUDGE, JUDGE, Path(given["judge"])))
    anchor = versions.get("anchor")
    options = _options(given.get("options") or {}, int(given.get("seed", job.seed)))
    tasks = [ItemSet(name, TASK, items) for name, items in lm_eval.documents(options["lm_eval"]).items()]
    return Study(
        candidate=candidate,
        champion=champion,
        anchor=anchor if anchor and anchor.name not in (candidate.name, champion.name) else None,
        sets=(*(_set(*each) for each in files), *tasks),
        options=options,
        max_new_tokens=int(given.get("max_new_tokens", 128)),
        device=job.device,
        memory=Memory(Path(given["cache"]) if given.get("cache") else None),
    )


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    """Replace a JSON Lines file atomically; in ASCII, since a model may say what a reader takes for a line's end."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    draft.replace(path)


def _set(name: str, role: str, path: Path) -> ItemSet:
    if role not in PROBE_OF:
        raise Misconfigured(f"set {name} has the unknown role {role!r}", hint=f"one of: {', '.join(PROBE_OF)}")
    try:
        bodies = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise Corrupt(f"the exported set {name} can't be read: {error}", hint="start the evaluation again") from error
    items = tuple(probes.item_from(name, body) for body in bodies)
    if len({item.id for item in items}) < len(items):
        raise Refused(f"two items of {name} have one id", hint="give every item an id of its own")
    return ItemSet(name, role, items)


def _options(given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Built options of every probe; what is sampled for safety is drawn anew in every evaluation."""
    refuse_unknown(given, probes.NAMES, Place("the evaluation's options"))
    made = {
        name: build(probes.load(name).Options, given.get(name, {}), Place("the evaluation's options", name))
        for name in probes.NAMES
    }
    if made["safety"].samples and not made["safety"].seed:
        made["safety"] = replace(made["safety"], seed=seed)
    return made
