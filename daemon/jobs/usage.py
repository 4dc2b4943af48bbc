"""What a job took: seconds of wall, CPU and GPU, and joules, on which device, in its folder's cost.json.

Owns: the measuring, in the child, over all attempts of the job, written every minute: of a child that is killed it is
known to within that. Refuses to know prices. Called by `daemon.jobs.child` and, for reading, by `daemon.costs`.
"""

import platform
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

from daemon.energy import EVERY, NVML, RAPL, Cards, Packages
from daemon.jobs import Job, read_json, write_json
from policies import costs
from policies.model import Usage

COST = "cost.json"
QUANTITIES = ("seconds", "cpu_seconds", "gpu_seconds", "joules")


class Meter:
    """Runs from when it is made until `stop`, and writes every `every` seconds."""

    def __init__(self, job: Job, every: float = EVERY) -> None:
        self._job, self._every, self._began, self._cpu = job, every, time.monotonic(), _cpu_seconds()
        self._before = usage_in(job.folder)
        self._packages, self._cards = Packages(), (None if job.device == "cpu" else Cards())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="meter")
        self._thread.start()

    def stop(self) -> None:
        """Write what was taken for the last time."""
        self._ended.set()
        self._thread.join()
        self._write()

    def _follow(self) -> None:
        while not self._ended.wait(self._every):
            self._write()

    def _write(self) -> None:
        """What this attempt took so far, and earlier ones before it."""
        seconds = time.monotonic() - self._began
        gpu = self._job.device == "gpu" or (self._job.device == "any" and _cuda_was_used())
        joules, counters = self._energy(gpu)
        now = Usage(
            seconds=seconds,
            cpu_seconds=_cpu_seconds() - self._cpu,
            gpu_seconds=seconds if gpu else 0.0,
            joules=joules,
        )
        whole = costs.total([self._before, now]) if self._before is not None else now
        told: dict[str, Any] = {name: getattr(whole, name) for name in QUANTITIES}
        told |= {"device": _device(gpu), "counters": counters}
        write_json(self._job.folder / COST, told, durable=True)

    def _energy(self, gpu: bool) -> tuple[float | None, str]:
        """Joules and the counters that said so; unknown where the GPU was used and can't say: it takes the most."""
        read = {RAPL: self._packages.joules(), NVML: self._cards.joules() if gpu and self._cards is not None else None}
        known = {name: value for name, value in read.items() if value is not None}
        if not known or (gpu and NVML not in known):
            return None, ""
        return sum(known.values()), " + ".join(known)


def usage_in(folder: Path) -> Usage | None:
    """What a job's folder says, None where it says nothing yet."""
    body = read_json(folder / COST)
    return Usage(**{name: body[name] for name in QUANTITIES}) if body is not None else None


def device_in(folder: Path) -> tuple[str, str]:
    """What the job ran on last, and whose counters told its joules; "" where the folder doesn't say."""
    body = read_json(folder / COST) or {}
    return str(body.get("device", "")), str(body.get("counters", ""))


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended, user and system."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def _cuda_was_used() -> bool:
    """Whether this process holds a GPU; torch is never imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _device(gpu: bool) -> str:
    """The card's or the processor's name, as "cuda: NVIDIA H100"."""
    if not gpu:
        return f"cpu: {_processor()}"
    return f"cuda: {sys.modules['torch'].cuda.get_device_name()}" if _cuda_was_used() else "gpu"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
