"""Entries of jobs for the tests of `daemon.jobs`: a module of its own, so that a child imports nothing else."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

from daemon.jobs import Job, write_json
from daemon.jobs.server import identity
from policies.errors import Refused


def double(job: Job) -> dict[str, Any]:
    (job.output / "made").write_text("made")
    job.progress("half way", 0.5)
    return {"twice": 2 * job.inputs["number"], "attempt": job.attempt, "seed": job.seed, "names": ["a"]}


def refuse(job: Job) -> dict[str, Any]:
    raise Refused("not on a Sunday", hint="come on Monday")


def refuse_on_a_spoilt_folder(job: Job) -> dict[str, Any]:
    (job.folder / "cost.json" / "in the way").mkdir(parents=True)
    raise Refused("not on a Sunday", hint="come on Monday")


def crash(job: Job) -> dict[str, Any]:
    return {"never": 1 / job.inputs["number"]}


def hang(job: Job) -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    write_json(job.folder / "grandchild.json", identity(child.pid))
    job.progress("hanging")
    time.sleep(300)
    return {}


def stubborn(job: Job) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job.progress("deaf")
    time.sleep(300)
    return {}


def resume(job: Job) -> dict[str, Any]:
    seen = job.checkpoint / "seen"
    if not seen.exists():
        seen.write_text(str(job.attempt))
        job.progress("stuck")
        time.sleep(300)
    return {"first": seen.read_text(), "attempt": job.attempt}


def environment(job: Job) -> dict[str, Any]:
    return {"offline": os.environ["HF_HUB_OFFLINE"], "track": os.environ["DO_NOT_TRACK"]}
