"""Jobs as child processes of this machine, forked from warm workers.

Owns: the workers (one that has torch and our training step imported, one for drift reports), starting, finding and
ending children. Refuses to know what a job does. Called by `daemon.act` and `daemon.observe`, through the `Jobs` protocol.

All state lies in the jobs' folders, so a daemon that was killed finds its children again: they run on without it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daemon.jobs import JobSpec, folder_of, prepare, read_json, result_in, view, write_json
from daemon.jobs.server import ENVIRONMENT, PROCESS, QUEUED, identity, lives
from policies.errors import Transient
from policies.model import JobView

TORCH = (
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.generation.utils",
    "peft",
    "daemon.training.packed",
)
EVIDENTLY = ("evidently", "evidently.presets", "evidently.metrics")
POOLS: Mapping[str, tuple[str, ...]] = {"torch": TORCH, "drift": EVIDENTLY}
GRACE = 2.0  # seconds between asking a child to end and ending it


class LocalJobs:
    """A `Jobs` whose children are forked here, each in a folder of its own under `root`."""

    def __init__(self, root: Path, now: Callable[[], float], *, preload: bool = True) -> None:
        """Make `root`; with `preload` the training worker starts importing at once, in its own process."""
        self.root, self.now, self.preload = root, now, preload
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if preload:
            self._worker("torch")

    def start(self, spec: JobSpec) -> None:
        """Queue the job with its worker, unless it runs or is done; returns before the child exists.

        Raises: Transient, when the worker died under our hands.
        """
        folder = folder_of(self.root, spec.key)
        if self.find(spec.key).state in ("running", "done"):
            return
        prepare(folder, spec, self.now())
        (folder / PROCESS).unlink(missing_ok=True)
        shutil.rmtree(folder / "output", ignore_errors=True)
        worker = self._worker("drift" if spec.kind == "drift" else "torch")
        write_json(folder / QUEUED, identity(worker.pid), durable=True)
        self._tell(worker, folder)

    def find(self, key: str) -> JobView:
        """How the job stands, by its files and its process."""
        folder = folder_of(self.root, key)
        return view(folder, key, alive=self._lives(folder))

    def cancel(self, key: str) -> None:
        """End a running job's process group: asked for first, by force after 2 seconds at most; it is absent then."""
        folder = folder_of(self.root, key)
        if self.find(key).state != "running":
            return
        (folder / QUEUED).unlink(missing_ok=True)
        process = read_json(folder / PROCESS)
        if process is None or not lives(process):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(int(process["pid"]), number)
            end = time.monotonic() + GRACE
            while lives(process) and time.monotonic() < end:
                time.sleep(0.01)

    def result(self, key: str) -> dict[str, Any]:
        """The result of a job that is done. Raises: Refused, when it isn't."""
        return result_in(folder_of(self.root, key), key)

    def folder(self, key: str) -> Path:
        """Where the job's files lie."""
        return folder_of(self.root, key)

    def close(self) -> None:
        """Let the workers go. Their children run on; a job that still waits for its worker is found absent."""
        for worker in self._workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
            worker.terminate()
        for worker in self._workers.values():
            try:
                worker.wait(GRACE)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self._workers.clear()

    def _lives(self, folder: Path) -> bool:
        """Queue first, process second: see `daemon.jobs.server` for why that order misses nothing."""
        return lives(read_json(folder / QUEUED)) or lives(read_json(folder / PROCESS))

    def _worker(self, pool: str) -> subprocess.Popen[bytes]:
        """The pool's worker, started anew when it died."""
        worker = self._workers.get(pool)
        if worker is not None and worker.poll() is None:
            return worker
        if worker is not None and worker.stdin is not None:
            worker.stdin.close()
        modules = POOLS[pool] if self.preload else ()
        with (self.root / f".{pool}-worker.log").open("wb") as log:
            self._workers[pool] = subprocess.Popen(
                [sys.executable, "-m", "daemon.jobs.server", str(os.getpid()), *modules],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": _paths()},
                start_new_session=True,
            )
        return self._workers[pool]

    def _tell(self, worker: subprocess.Popen[bytes], folder: Path) -> None:
        """Write the job's folder into the worker's pipe, which holds it until the imports are done."""
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(str(folder.resolve())).encode() + b"\n")
            worker.stdin.flush()
        except BrokenPipeError as problem:
            hint = "the same start gets a new worker; look at the log of workers if this goes on"
            raise Transient("the worker that forks jobs has just died", hint=hint) from problem


def _paths() -> str:
    """Where our own modules and the jobs' entries are found, as this process finds them."""
    installed = (sys.prefix, sys.base_prefix)
    ours = [str(Path(__file__).parents[2]), *(path for path in sys.path if path and not path.startswith(installed))]
    return os.pathsep.join(dict.fromkeys(ours))


def _signal(pid: int, number: signal.Signals) -> None:
    """Signal a child's whole group, which `setsid` gave its own; none is left when it is gone."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
