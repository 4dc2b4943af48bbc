"""Fakes that ship with the package, used instead of patching.

Owns: stand-ins that keep the contracts of what they stand for. Refuses to be used in production. Called by tests and
by whoever tests a plug-in of their own.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from daemon.jobs import ERROR, RESULT, JobSpec, folder_of, prepare, result_in, view
from daemon.jobs.child import perform
from daemon.models import Conversation, Ref
from daemon.targets import Answers, Serving, check_shares, files
from feedback.sources import Position, Raw
from policies.errors import Transient
from policies.model import JobView


class InlineJobs:
    """A `Jobs` that runs a job at `start`, in this process: no child, no waiting, the same files and errors.

    `started` keeps the specs in order. `lose(key)` makes a job vanish as a killed child does.
    """

    def __init__(self, root: Path, now: Callable[[], float]) -> None:
        self.root, self.now = root, now
        self.started: list[JobSpec] = []

    def start(self, spec: JobSpec) -> None:
        """Run the job, unless it is done already."""
        folder = folder_of(self.root, spec.key)
        if self.find(spec.key).state == "done":
            return
        self.started.append(spec)
        prepare(folder, spec, self.now())
        perform(folder)

    def find(self, key: str) -> JobView:
        """How the job ended; never running."""
        return view(folder_of(self.root, key), key, alive=False)

    def cancel(self, key: str) -> None:
        """Nothing to cancel: a job ends within `start`."""

    def result(self, key: str) -> dict[str, Any]:
        """The result of a job that is done. Raises: Refused, when it isn't."""
        return result_in(folder_of(self.root, key), key)

    def folder(self, key: str) -> Path:
        """Where the job's files lie."""
        return folder_of(self.root, key)

    def lose(self, key: str) -> None:
        """Forget how the job ended, as when its child was killed: it is found absent."""
        for name in (RESULT, ERROR):
            (folder_of(self.root, key) / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing to let go."""


class FakeClock:
    """A `Clock` that a test moves: waiting takes no time and only adds the seconds."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        """Unix seconds, as far as the test has moved them."""
        return self._now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Let the seconds pass at once; true when the event is set."""
        self.advance(seconds)
        return event.is_set()

    def advance(self, seconds: float) -> float:
        """Move on, and say what time it is then."""
        self._now += seconds
        return self._now


class FakeSource:
    """A `Source` of what a test puts in. `positions` keeps what was told as committed, `lost` what as fenced."""

    def __init__(self, values: Iterable[bytes] = (), *, source: str = "feedback", generation: int = 0) -> None:
        self.source, self.generation = source, generation
        self.paused = self.closed = False
        self.positions: list[Position] = []
        self.lost: list[Position] = []
        self._waiting: list[Raw] = []
        self._next = self._failures = 0
        self.put(*values)

    def put(self, *values: bytes) -> None:
        """Add messages of one partition, at the next offsets."""
        for value in values:
            self.add(
                Raw(
                    value=value,
                    headers=(),
                    source=self.source,
                    topic_id="fake",
                    cluster="fake",
                    partition=0,
                    offset=self._next,
                    next=self._next + 1,
                    generation=self.generation,
                )
            )

    def add(self, *raws: Raw) -> None:
        """Add messages with positions of their own."""
        for raw in raws:
            self._waiting.append(raw)
            self._next = max(self._next, raw.next)

    def fail(self, times: int) -> None:
        """Let the next `times` polls find the broker away."""
        self._failures = times

    def poll(self, max_records: int, timeout_seconds: float) -> list[Raw]:  # noqa: ARG002 (nothing to wait for)
        """What waits, in order. Raises: Transient, as often as `fail` said."""
        if self._failures:
            self._failures -= 1
            raise Transient("the fake broker is away", hint="it was told to be")
        if self.paused:
            return []
        given, self._waiting = self._waiting[:max_records], self._waiting[max_records:]
        return given

    def committed(self, positions: Sequence[Position]) -> None:
        """Note what was stored."""
        self.positions.extend(positions)

    def fenced(self, positions: Sequence[Position]) -> None:
        """Note what somebody else has claimed; it is not given any more."""
        lost = {(each.source, each.partition) for each in positions}
        self.lost.extend(positions)
        self._waiting = [raw for raw in self._waiting if (raw.source, raw.partition) not in lost]

    def pause(self) -> None:
        """Give nothing until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """Give again."""
        self.paused = False

    def close(self) -> None:
        """Note that the source was left."""
        self.closed = True


class FakeTarget:
    """A `Target` that fails, hangs and misserves on demand; beneath it is target `files` in `folder`.

    So a proof that asks kind `files` with `options` finds what this one serves. With `splits` it takes several shares
    (and `current` leads to the first). `calls` keeps (call, version) in order.
    """

    def __init__(self, folder: Path, *, splits: bool = False) -> None:
        self.options = files.Options(folder=folder)
        self.splits = splits
        self.calls: list[tuple[str, str]] = []
        self._real = files.Target(self.options)
        self._shares: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._instead = ""
        self._wrong: set[str] = set()
        self._free = threading.Event()
        self._free.set()

    def fail(self, times: int, call: str = "") -> None:
        """Let the next `times` calls (all, or those of one name) find the target away."""
        self._failures[call] = times

    def misserve(self, instead: str) -> None:
        """From the next route on say the routed version, and answer as `instead` ("": as it should again)."""
        self._instead = instead

    def hang(self) -> None:
        """Let every call wait for `release`, 30 seconds at most."""
        self._free.clear()

    def release(self) -> None:
        """Let the waiting calls go on."""
        self._free.set()

    def load(self, ref: Ref) -> None:
        """As the contract says."""
        self._enter("load", ref.name)
        if ref.name in self._wrong and not self._instead:
            shutil.rmtree(self._real.versions / ref.name)
            self._wrong.discard(ref.name)
        self._real.load(ref)

    def route(self, shares: Mapping[str, float], token: int) -> None:
        """As the contract says. Raises: Misconfigured, when it gets several shares and doesn't split."""
        first = next(iter(shares), "")
        self._enter("route", first)
        check_shares(shares)
        self._real.route({first: 1.0} if self.splits else shares, token)
        self._shares = dict(shares)
        if self._instead and self._instead != first:
            self._exchange(first)

    def serving(self) -> Serving:
        """As the contract says."""
        self._enter("serving", "")
        real = self._real.serving()
        return Serving(dict(self._shares), real.token) if self.splits and self._shares else real

    def answer(self, prompts: Sequence[Conversation], version: str, *, max_new_tokens: int = 128) -> Answers:
        """As the contract says."""
        self._enter("answer", version)
        return self._real.answer(prompts, version, max_new_tokens=max_new_tokens)

    def unload(self, version: str) -> None:
        """As the contract says."""
        self._enter("unload", version)
        self._real.unload(version)

    def _enter(self, call: str, version: str) -> None:
        self.calls.append((call, version))
        if not self._free.wait(30.0):
            raise Transient(f"the fake target did not answer {call} in time", hint="it was told to hang")
        for name in ("", call):
            if self._failures.get(name, 0):
                self._failures[name] -= 1
                raise Transient(f"the fake target is away for {call}", hint="it was told to be")

    def _exchange(self, name: str) -> None:
        """Put the other version's files under this one's name: what a stale cache or adapter looks like."""
        folder = self._real.versions / name
        shutil.rmtree(folder)
        shutil.copytree(self._real.versions / self._instead, folder)
        card = json.loads((folder / files.CARD).read_text("utf-8"))
        (folder / files.CARD).write_text(json.dumps({**card, "name": name}), "utf-8")
        self._wrong.add(name)
