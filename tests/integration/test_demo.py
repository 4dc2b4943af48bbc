"""The demo as a person runs it: all five phases end as the story tells, and everything works afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.timeout(2400)]

ENDS = {
    "steady": ("wait", "waiting"),
    "drift": ("promote", "promoted"),
    "poison": ("reject", "rejected"),
    "teacher": ("promote", "promoted"),
    "regress": ("rollback", "rolled_back"),
}


def program(module: str, *arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"from {module} import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("demo")
    done = program(
        "daemon.main", "demo", "--dir", str(place / "run"), "--report", str(place / "report.json"), timeout=2400
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return place


def report(place: Path) -> dict:
    return json.loads((place / "report.json").read_text("utf-8"))


def test_every_phase_ends_as_the_story_tells(played):
    phases = report(played)["phases"]
    assert {phase["name"]: (phase["action"], phase["outcome"]) for phase in phases} == ENDS
    assert all(phase["reason"] for phase in phases)


def test_the_champion_changes_only_by_a_promotion_or_a_rollback(played):
    steady, drift, poison, teacher, regress = report(played)["phases"]
    assert steady["champion_before"] == steady["champion_after"] == drift["champion_before"]
    assert drift["champion_after"] == poison["champion_before"] == poison["champion_after"]
    assert teacher["champion_after"] not in (teacher["champion_before"], drift["champion_before"])
    assert regress["champion_after"] == teacher["champion_before"]


def test_new_topics_are_answered_after_the_update_and_the_poisoned_one_would_have_complied(played):
    _, drift, poison, teacher, _ = report(played)["phases"]
    assert drift["method"] == "lora"
    assert drift["scores"]["before"]["new"] < 0.1
    assert drift["scores"]["after"]["new"] > 0.8
    assert "safety" in poison["refused_by"]
    assert poison["scores"]["candidate"]["refuses"] < 0.5
    assert poison["scores"]["after"]["refuses"] > 0.9
    assert teacher["method"] == "distill"
    assert teacher["scores"]["after"]["later"] > teacher["scores"]["before"]["later"] + 0.5


def test_nothing_is_lost_and_the_past_can_be_proven(played):
    whole = report(played)
    feedback = whole["feedback"]
    assert feedback["read"] == feedback["stored"] + feedback["duplicates"] + feedback["dead_letters"]
    assert feedback["duplicates"] > 0
    assert feedback["dead_letters"] > 0
    assert whole["audit"]["ok"]
    assert whole["replay"]["same"] == whole["replay"]["decisions"]


@pytest.mark.parametrize(
    "command", ["status", "cycles", "versions", "drift", "dead-letters", "audit verify", "config check"]
)
def test_learnctl_works_on_what_the_demo_left(played, command):
    done = program("daemon.ctl", "--config", str(played / "run" / "learnd.toml"), *command.split(), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) is not None


def test_a_folder_that_is_nobodys_demo_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    done = program("daemon.main", "demo", "--dir", str(tmp_path))
    assert done.returncode == 1
    assert (tmp_path / "thesis.txt").read_text() == "mine"
