"""Fakes that ship with the package, used instead of patching.

Owns: stand-ins that keep the contracts of what they stand for. Refuses to be used in production. Called by tests and
by whoever tests a plug-in of their own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.jobs import ERROR, RESULT, JobSpec, folder_of, prepare, result_in, view
from daemon.jobs.child import perform
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
