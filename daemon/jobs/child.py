"""What runs in the child: one job, from its folder to its result or its error.

Owns: the import of the entry, result.json and error.json. Refuses to know processes (`daemon.jobs.server` forks) and
the daemon's database. Called by `daemon.jobs.server` and, in tests, by `daemon.testing.InlineJobs`.
"""

import importlib
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from daemon.jobs import ERROR, RESULT, Job, job_in, write_json
from daemon.jobs.usage import Meter
from policies.errors import LearndError, Misconfigured

Entry = Callable[[Job], dict[str, Any]]


def perform(folder: Path) -> bool:
    """Run the job of a folder and write its result or its error; true when there is a result.

    An error's `kind` is the name of one of the four errors, or "Error" for a fault of ours, whose end of the traceback
    goes along (all of it is in the log).
    """
    job, entry = job_in(folder)
    shutil.rmtree(job.output, ignore_errors=True)
    job.output.mkdir(parents=True)
    job.checkpoint.mkdir(exist_ok=True)
    try:
        result = _metered(entry, job)
    except LearndError as error:
        _fail(folder, type(error).__name__, str(error), error.hint)
    except Exception as error:  # noqa: BLE001 (the border of the process: whatever it is, the daemon must hear of it)
        traceback.print_exc()
        tail = traceback.format_exc()[-2000:]
        _fail(folder, "Error", f"{type(error).__name__}: {error}", "", traceback=tail)
    else:
        write_json(folder / RESULT, result, durable=True)
        return True
    return False


def resolve(entry: str) -> Entry:
    """The function that "module:function" names. Raises: Misconfigured."""
    module, _, name = entry.partition(":")
    try:
        return cast(Entry, getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError) as problem:
        raise Misconfigured(f"no job {entry!r}: {problem}", hint='an entry is "module:function"') from problem


def _metered(entry: str, job: Job) -> dict[str, Any]:
    """Run it; what it took is written however it ends, before its result or error is. Where it failed and its cost can't
    be written either, it is the failure that is told.
    """
    meter = Meter(job)
    try:
        result = resolve(entry)(job)
    except BaseException:
        try:
            meter.stop()
        except OSError:
            traceback.print_exc()
        raise
    meter.stop()
    return result


def _fail(folder: Path, kind: str, message: str, hint: str, **more: str) -> None:
    body = {"kind": kind, "message": message, "hint": hint, **more}
    write_json(folder / ERROR, body, durable=True)
