"""Jobs: what a start, a kill, a restart and a cancellation leave behind, on real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.jobs import Job, Jobs, JobSpec, folder_of, read_json, write_json
from daemon.jobs.local import LocalJobs
from daemon.jobs.server import PROCESS, QUEUED, lives
from daemon.testing import InlineJobs
from policies.errors import Corrupt, Misconfigured, Refused
from tests.job_entries import crash, double, environment, hang, refuse, refuse_on_a_spoilt_folder, resume, stubborn

HERE = "tests.job_entries"


def spec(entry: Callable[[Job], dict[str, Any]], key: str = "bot.c1.candidate", **inputs: Any) -> JobSpec:
    return JobSpec(key, "train", f"{HERE}:{entry.__name__}", inputs, seed=7, deadline=99.0)


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


@pytest.fixture(params=["local", "inline"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Jobs]:
    root = tmp_path / "jobs"
    made: Jobs = (
        LocalJobs(root, lambda: 5.0, preload=False) if request.param == "local" else InlineJobs(root, lambda: 5.0)
    )
    yield made
    made.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalJobs]:
    made = LocalJobs(tmp_path / "jobs", lambda: 5.0, preload=False)
    yield made
    made.close()


def ended(jobs: Jobs, key: str = "bot.c1.candidate") -> str:
    until(lambda: jobs.find(key).state != "running")
    return jobs.find(key).state


def test_a_job_gives_its_result_and_its_files(jobs: Jobs) -> None:
    jobs.start(spec(double, number=21))
    assert ended(jobs) == "done"
    view = jobs.find("bot.c1.candidate")
    assert (view.kind, view.started, view.deadline, view.progress) == ("train", 5.0, 99.0, "half way")
    assert view.result["twice"] == "42"
    assert "names" not in view.result
    assert jobs.result("bot.c1.candidate") == {"twice": 42, "attempt": 1, "seed": 7, "names": ["a"]}
    assert (jobs.folder("bot.c1.candidate") / "output" / "made").read_text() == "made"


def test_starting_a_job_that_is_done_changes_nothing(jobs: Jobs) -> None:
    for number in (21, 4):
        jobs.start(spec(double, number=number))
        assert ended(jobs) == "done"
    assert jobs.result("bot.c1.candidate")["twice"] == 42


@pytest.mark.parametrize("entry", [refuse, refuse_on_a_spoilt_folder])
def test_a_refusal_arrives_with_its_kind_and_hint(jobs: Jobs, entry: Any) -> None:
    jobs.start(spec(entry))
    assert ended(jobs) == "failed"
    view = jobs.find("bot.c1.candidate")
    assert (view.error_kind, view.error) == ("Refused", "not on a Sunday (hint: come on Monday)")
    with pytest.raises(Refused, match="no result"):
        jobs.result("bot.c1.candidate")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fault_of_ours_is_an_error_with_a_traceback_in_the_log(local: LocalJobs) -> None:
    local.start(spec(crash, number=0))
    assert ended(local) == "failed"
    view = local.find("bot.c1.candidate")
    assert view.error_kind == "Error"
    assert "ZeroDivisionError" in view.error
    assert "in crash" in (local.folder(view.key) / "log").read_text()


def test_an_entry_that_is_not_there_is_a_misconfiguration(jobs: Jobs) -> None:
    jobs.start(JobSpec("k", "train", "daemon.training.nothing:train"))
    assert ended(jobs, "k") == "failed"
    assert jobs.find("k").error_kind == Misconfigured.__name__


def test_a_job_that_nobody_started_is_absent(jobs: Jobs) -> None:
    assert jobs.find("never").state == "absent"
    jobs.cancel("never")


def test_a_failed_job_starts_again_on_its_checkpoint(jobs: Jobs) -> None:
    jobs.start(spec(crash, number=0))
    assert ended(jobs) == "failed"
    jobs.start(spec(double, number=1))
    assert ended(jobs) == "done"
    assert jobs.result("bot.c1.candidate")["attempt"] == 2


def test_start_returns_while_the_worker_still_imports_and_the_job_waits_for_it(tmp_path: Path) -> None:
    jobs = LocalJobs(tmp_path / "jobs", lambda: 5.0, preload=False)
    begin = time.monotonic()
    jobs.start(spec(double, number=21))
    assert time.monotonic() - begin < 0.5
    assert jobs.find("bot.c1.candidate").state in ("running", "done")
    assert ended(jobs) == "done"
    jobs.close()


def test_cancelling_ends_a_child_and_all_that_it_started(local: LocalJobs) -> None:
    local.start(spec(hang))
    grandchild = local.folder("bot.c1.candidate") / "grandchild.json"
    until(lambda: local.find("bot.c1.candidate").progress == "hanging")
    local.cancel("bot.c1.candidate")
    assert local.find("bot.c1.candidate").state == "absent"
    until(lambda: not lives(read_json(grandchild)))


@pytest.mark.slow
def test_a_child_that_will_not_end_is_ended(local: LocalJobs) -> None:
    local.start(spec(stubborn))
    until(lambda: local.find("bot.c1.candidate").progress == "deaf")
    local.cancel("bot.c1.candidate")
    assert local.find("bot.c1.candidate").state == "absent"


def test_a_job_cancelled_while_it_waits_for_the_worker_never_runs(tmp_path: Path) -> None:
    jobs = LocalJobs(tmp_path / "jobs", lambda: 5.0, preload=False)
    os.kill(jobs._worker("torch").pid, signal.SIGSTOP)
    jobs.start(spec(double, number=1))
    assert jobs.find("bot.c1.candidate").state == "running"
    jobs.cancel("bot.c1.candidate")
    assert jobs.find("bot.c1.candidate").state == "absent"
    jobs.start(spec(double, "after", number=1))
    os.kill(jobs._worker("torch").pid, signal.SIGCONT)
    assert ended(jobs, "after") == "done"
    assert jobs.find("bot.c1.candidate").state == "absent"
    assert not (jobs.folder("bot.c1.candidate") / "output").exists()
    jobs.close()


def test_a_killed_child_is_absent_and_resumes_from_its_checkpoint(local: LocalJobs) -> None:
    local.start(spec(resume))
    until(lambda: local.find("bot.c1.candidate").progress == "stuck")
    process = read_json(local.folder("bot.c1.candidate") / PROCESS)
    assert process is not None
    os.kill(process["pid"], signal.SIGKILL)
    assert ended(local) == "absent"
    local.start(spec(resume))
    assert ended(local) == "done"
    assert local.result("bot.c1.candidate") == {"first": "1", "attempt": 2}


DAEMON = """
import sys, time
from pathlib import Path
from daemon.jobs import JobSpec
from daemon.jobs.local import LocalJobs
jobs = LocalJobs(Path(sys.argv[1]), lambda: 5.0, preload=False)
jobs.start(JobSpec("k", "train", sys.argv[2], {"number": 3}))
if sys.argv[3] == "wait":
    while jobs.find("k").progress != "hanging":
        time.sleep(0.01)
print("started", flush=True)
time.sleep(300)
"""


def killed_daemon(root: Path, entry: str, when: str) -> None:
    """A daemon of its own starts job `k` and is killed: once the job runs, or as soon as start() returned."""
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(root), entry, when], stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == b"started\n"
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()


def test_a_restarted_daemon_finds_the_running_child_of_a_killed_one(tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    killed_daemon(root, f"{HERE}:hang", "wait")
    jobs = LocalJobs(root, lambda: 6.0, preload=False)
    assert jobs.find("k").state == "running"
    process = read_json(jobs.folder("k") / PROCESS)
    jobs.start(JobSpec("k", "train", f"{HERE}:hang"))
    assert read_json(jobs.folder("k") / PROCESS) == process
    jobs.cancel("k")
    assert jobs.find("k").state == "absent"
    jobs.close()


def test_a_daemon_killed_right_after_start_leaves_a_job_that_ends_or_is_absent_never_both(tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    killed_daemon(root, f"{HERE}:double", "now")
    jobs = LocalJobs(root, lambda: 6.0, preload=False)
    if ended(jobs, "k") == "absent":
        jobs.start(JobSpec("k", "train", f"{HERE}:double", {"number": 3}))
        assert ended(jobs, "k") == "done"
    assert jobs.result("k")["twice"] == 6
    jobs.close()


def test_closing_leaves_no_process_behind_but_running_jobs(local: LocalJobs) -> None:
    local.start(spec(hang))
    until(lambda: local.find("bot.c1.candidate").progress == "hanging")
    worker = local._workers["torch"]
    local.close()
    assert worker.poll() is not None
    assert local.find("bot.c1.candidate").state == "running"
    local.cancel("bot.c1.candidate")
    assert local.find("bot.c1.candidate").state == "absent"


def test_a_worker_that_died_is_replaced_and_its_waiting_job_is_absent(local: LocalJobs) -> None:
    local.start(spec(double, number=1))
    assert ended(local) == "done"
    dead = local._workers["torch"]
    dead.kill()
    dead.wait()
    folder = folder_of(local.root, "waiting")
    folder.mkdir()
    write_json(folder / QUEUED, {"pid": dead.pid, "start": 1, "boot": "another"})
    assert local.find("waiting").state == "absent"
    local.start(spec(double, "next", number=2))
    assert ended(local, "next") == "done"


def test_children_are_told_to_stay_offline_and_send_nothing(local: LocalJobs) -> None:
    local.start(spec(environment))
    assert ended(local) == "done"
    assert local.result("bot.c1.candidate")["offline"] == "1"
    assert local.result("bot.c1.candidate")["track"] == "1"


@pytest.mark.parametrize("key", ["../../etc", "a/b", ".hidden", "ümlaut", "support-bot@3f9c"])
def test_no_key_leaves_the_folder_of_jobs(tmp_path: Path, key: str) -> None:
    folder = folder_of(tmp_path, key)
    assert folder.parent == tmp_path
    assert folder.resolve().parent == tmp_path.resolve()


@pytest.mark.parametrize("key", ["", "k" * 300])
def test_a_key_that_makes_no_folder_name_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(Refused, match="no key"):
        folder_of(tmp_path, key)


def test_a_broken_job_file_is_corrupt_not_absent(jobs: Jobs) -> None:
    folder = jobs.folder("k")
    folder.mkdir(parents=True)
    (folder / "job.json").write_text("{")
    with pytest.raises(Corrupt, match="no JSON"):
        jobs.find("k")


def test_a_job_that_vanished_inline_is_absent(tmp_path: Path) -> None:
    jobs = InlineJobs(tmp_path, lambda: 5.0)
    jobs.start(spec(double, number=1))
    jobs.lose("bot.c1.candidate")
    assert jobs.find("bot.c1.candidate").state == "absent"
