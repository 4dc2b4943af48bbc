"""Nothing counts as served because a target says so: it has to answer as the version was recorded to."""

import json
from pathlib import Path
from typing import Any

import pytest

from daemon import proving
from daemon.echo_model import Table, write
from daemon.jobs import Job
from daemon.models import Ref
from daemon.proving import Recorded
from daemon.testing import FakeTarget
from policies.errors import Misconfigured, Transient

OLD, NEW = {"a": "old a", "b": "old b"}, {"a": "new a", "b": "new b"}


@pytest.fixture
def target(tmp_path: Path) -> FakeTarget:
    made = FakeTarget(tmp_path / "served")
    for name, answers in (("bot@1", OLD), ("bot@2", NEW)):
        write(tmp_path / name, Table(answers))
        made.load(Ref(name, str(tmp_path / name), engine="echo"))
    return made


def recorded(folder: Path, prompts: dict[str, dict[str, str]] | None = None) -> Path:
    found = {key: {"bot@1": OLD[key], "bot@2": NEW[key]} for key in OLD} if prompts is None else prompts
    lines = [{"messages": [{"role": "user", "content": key}], "answers": said} for key, said in found.items()]
    path = folder / "distinct.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def prove(target: FakeTarget, folder: Path, version: str = "bot@2", prompts: Path | None = None) -> dict[str, Any]:
    inputs = {
        "target": {"kind": "files", "options": {"folder": str(target.options.folder)}},
        "version": version,
        "prompts": str(prompts or recorded(folder)),
        "max_new_tokens": 16,
    }
    return proving.run(Job("p", "prove", inputs, 0, 0.0, folder))


def test_a_target_that_answers_as_recorded_serves_the_version(target: FakeTarget, tmp_path: Path) -> None:
    target.route({"bot@2": 1.0}, 1)
    found = prove(target, tmp_path)
    assert {key: found[key] for key in ("asked", "matched", "like_champion", "serves")} == {
        "asked": 2,
        "matched": 2,
        "like_champion": 0,
        "serves": True,
    }


def test_after_a_rollback_the_version_before_is_proven_with_the_same_prompts(
    target: FakeTarget, tmp_path: Path
) -> None:
    target.route({"bot@2": 1.0}, 1)
    target.route({"bot@1": 1.0}, 2)
    assert prove(target, tmp_path, "bot@1")["serves"] is True


def test_a_target_that_says_the_right_name_and_answers_as_the_old_version_is_found_out(
    target: FakeTarget, tmp_path: Path
) -> None:
    target.misserve("bot@1")
    target.route({"bot@2": 1.0}, 1)
    assert target.serving().shares == {"bot@2": 1.0}
    found = prove(target, tmp_path)
    assert (found["serves"], found["matched"], found["like_champion"]) == (False, 0, 2)
    assert "0 of 2" in found["reason"]


def test_one_wrong_answer_among_right_ones_is_no_proof(target: FakeTarget, tmp_path: Path) -> None:
    target.route({"bot@2": 1.0}, 1)
    odd = {"a": {"bot@1": "old a", "bot@2": "new a"}, "b": {"bot@1": "old b", "bot@2": "new c"}}
    found = prove(target, tmp_path, prompts=recorded(tmp_path, odd))
    assert (found["serves"], found["matched"]) == (False, 1)


def test_a_target_that_serves_another_version_is_not_even_asked(target: FakeTarget, tmp_path: Path) -> None:
    target.route({"bot@1": 1.0}, 1)
    found = prove(target, tmp_path)
    assert (found["serves"], found["asked"]) == (False, 0)
    assert "bot@1" in found["reason"]


def test_no_prompt_is_no_proof(target: FakeTarget, tmp_path: Path) -> None:
    target.route({"bot@2": 1.0}, 1)
    assert prove(target, tmp_path, prompts=recorded(tmp_path, {}))["serves"] is False


def test_the_prompts_of_another_evaluation_are_refused(target: FakeTarget, tmp_path: Path) -> None:
    target.route({"bot@2": 1.0}, 1)
    with pytest.raises(Misconfigured, match="no answer of bot@2"):
        prove(target, tmp_path, prompts=recorded(tmp_path, {"a": {"bot@7": "x"}}))
    with pytest.raises(Misconfigured, match="recorded prompts"):
        prove(target, tmp_path, prompts=tmp_path / "gone.jsonl")


def test_a_target_that_is_away_is_asked_again_later(target: FakeTarget) -> None:
    target.route({"bot@2": 1.0}, 1)
    target.fail(1, "answer")
    prompts = [Recorded([{"role": "user", "content": "a"}], {"bot@1": "old a", "bot@2": "new a"})]
    with pytest.raises(Transient):
        proving.prove(target, "bot@2", prompts, 16)
    assert proving.prove(target, "bot@2", prompts, 16).serves is True
