"""What a job took: seconds of wall, CPU and GPU, and joules, in its folder's cost.json.

Owns: the measuring, in the child, over all attempts of the job that came to an end by themselves. What a killed child took
is not known, but for how long the daemon saw it run. Refuses to know prices. Called by `daemon.jobs.child` and, for
reading, by `daemon.costs`.
"""

import resource
import sys
import time
from pathlib import Path

from daemon.energy import Cards, Packages
from daemon.jobs import Job, read_json, write_json
from policies import costs
from policies.model import Usage

COST = "cost.json"


class Meter:
    """Runs from when it is made until `stop`."""

    def __init__(self, job: Job) -> None:
        self._job, self._began, self._cpu = job, time.monotonic(), _cpu_seconds()
        self._packages, self._cards = Packages(), (None if job.device == "cpu" else Cards())

    def stop(self) -> None:
        """Add what was taken to what earlier attempts took."""
        seconds = time.monotonic() - self._began
        gpu = self._job.device == "gpu" or (self._job.device == "any" and _cuda_was_used())
        cards = self._cards.joules() if gpu and self._cards is not None else None
        known = [value for value in (self._packages.joules(), cards) if value is not None]
        self._packages.close()
        now = Usage(
            seconds=seconds,
            cpu_seconds=_cpu_seconds() - self._cpu,
            gpu_seconds=seconds if gpu else 0.0,
            joules=sum(known) if known else None,
        )
        before = usage_in(self._job.folder)
        whole = costs.total([before, now]) if before is not None else now
        names = ("seconds", "cpu_seconds", "gpu_seconds", "joules")
        write_json(self._job.folder / COST, {name: getattr(whole, name) for name in names}, durable=True)


def usage_in(folder: Path) -> Usage | None:
    """What a job's folder says, None where no attempt has come to an end by itself."""
    body = read_json(folder / COST)
    return Usage(**body) if body is not None else None


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended, user and system."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def _cuda_was_used() -> bool:
    """Whether this process holds a GPU; torch is never imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
