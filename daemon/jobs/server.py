"""The warm worker: imports the heavy libraries once, then forks a child for every job it is told of.

Owns: the process that forks, and the order of the files that make a start safe against a kill at any point. Refuses to
know jobs, the database and the network. Called by `daemon.jobs.local`, as a process of its own.

It reads folders, one JSON string a line, from standard input, and ends when that closes. Why not `multiprocessing`'s
forkserver: that is one a process with one list of preloads (training and drift reports need two), it blocks who starts
a job until its imports are done, and its queue can't be told from a lost job.

A job waits as queued.json (who is to fork it), then stands as process.json (its own process). The second is written
before the first is removed, and the child runs only after both: a reader that looks at the queue first and at the
process second never misses a job, and a job cancelled in between never runs.
"""

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from daemon.jobs import LOG, read_json, write_json
from daemon.jobs.child import perform

QUEUED, PROCESS = "queued.json", "process.json"

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    # Forking is safe only before CUDA is touched; asking NVML whether there is a GPU doesn't touch it.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


def main() -> None:
    """Preload what the arguments name, then fork a child a line until standard input closes."""
    parent = int(sys.argv[1])
    preload(sys.argv[2:])
    gc.freeze()  # shared pages stay shared: the children's collector leaves them alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    for line in sys.stdin:
        if os.getppid() != parent:  # the daemon died while we were busy: another one may be starting the job again
            return
        launch(Path(json.loads(line)))


def preload(modules: list[str]) -> None:
    """Import what is installed of `modules`; a job that needs what is missing says so itself."""
    for name in modules:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)


def launch(folder: Path) -> None:
    """Fork the child of a queued job; nothing happens when the job was cancelled meanwhile."""
    if read_json(folder / QUEUED) is None:
        return
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        _child(folder, ready)
    os.close(ready)
    with contextlib.suppress(ProcessLookupError):
        os.setpgid(pid, pid)  # from here on it can be signalled with all that it starts
    write_json(folder / PROCESS, identity(pid), durable=True)
    try:
        (folder / QUEUED).unlink()
    except FileNotFoundError:  # cancelled: the pipe closes without a word, and the child ends
        os.close(go)
        return
    os.write(go, b"1")
    os.close(go)


def _child(folder: Path, ready: int) -> None:
    """The forked process: waits for the word, runs the job, and never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if os.read(ready, 1) != b"1":
            return
        _redirect(folder / LOG)
        status = 0 if perform(folder) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not through the server's own loop


def _redirect(log: Path) -> None:
    """Standard input from nowhere, output and errors to the job's log: the server's pipe is not the child's."""
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(file)


def identity(pid: int) -> dict[str, Any]:
    """What tells a process from a later one with its pid: its start in ticks since boot, and the boot."""
    return {"pid": pid, "start": _start(pid), "boot": _boot()}


def lives(process: dict[str, Any] | None) -> bool:
    """Whether the process of an `identity` still runs (a zombie doesn't)."""
    if process is None or process["boot"] != _boot():
        return False
    return _start(int(process["pid"])) == int(process["start"]) != 0


def _start(pid: int) -> int:
    """Start time of a running process in clock ticks since boot (proc(5), field 22); 0 when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    state, *rest = stat.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(rest[18])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()


if __name__ == "__main__":
    main()
