"""The echo method and what all methods share: examples, options, the table of names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon import training
from daemon.echo_model import Table, write
from daemon.jobs import JobSpec
from daemon.models import Ref, load
from daemon.testing import InlineJobs
from daemon.training import examples, parse
from policies.errors import Corrupt, Misconfigured, Refused
from policies.model import JobView
from tests.tiny import ask, line, write_lines


class World:
    """A champion and the jobs that train its successors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs = InlineJobs(folder / "jobs", lambda: 0.0)
        write(folder / "base", Table({"capital?": "bonn", "colour?": "blue"}, "no idea"))
        self.base = Ref("bot@base", str(folder / "base"), engine="echo")

    def train(self, key: str, lines: list[dict[str, Any]], champion: Ref | None = None, **more: Any) -> JobView:
        inputs = {
            "deployment": "bot",
            "step": "candidate",
            "dataset": write_lines(self.folder / f"{key}.jsonl", lines),
            "champion": (champion or self.base).to_json(),
            "base": self.base.to_json(),
            "depth": 0,
            "options": {},
            **more,
        }
        self.jobs.start(JobSpec(key, "train", training.entry("echo"), inputs))
        return self.jobs.find(key)

    def says(self, key: str, prompt: str) -> str:
        ref = Ref(key, str(self.jobs.folder(key) / "output"), self.base.folder, "echo")
        return load(ref).answer([ask(prompt)], max_new_tokens=9)[0]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_correction_is_learned_and_the_rest_kept(world: World) -> None:
    assert world.train("a", [line("sft", "Capital?", "berlin")]).state == "done"
    assert (world.says("a", "capital?"), world.says("a", "colour?")) == ("berlin", "blue")
    result = world.jobs.result("a")
    assert (result["kind"], result["engine"], result["base"], result["depth"]) == ("adapter", "echo", "bot@base", 1)


def test_of_two_corrections_the_heavier_wins(world: World) -> None:
    world.train("a", [line("sft", "capital?", "berlin", weight=0.4), line("sft", "capital?", "bern", weight=0.6)])
    assert world.says("a", "capital?") == "bern"


def test_a_preference_and_a_praise_are_learned(world: World) -> None:
    lines = [line("pair", "capital?", "berlin", rejected="bonn"), line("kto", "colour?", "grey", label=True)]
    world.train("a", lines)
    assert (world.says("a", "capital?"), world.says("a", "colour?")) == ("berlin", "grey")


def test_an_answer_voted_down_gives_way_to_the_default(world: World) -> None:
    world.train("a", [line("kto", "capital?", "bonn", label=False)])
    assert world.says("a", "capital?") == "no idea"


def test_an_update_continues_the_champions_and_a_fresh_start_does_not(world: World) -> None:
    world.train("a", [line("sft", "capital?", "berlin")])
    champion = Ref("bot@a", str(world.jobs.folder("a") / "output"), world.base.folder, "echo")
    world.train("b", [line("sft", "colour?", "grey")], champion, depth=1)
    assert (world.says("b", "capital?"), world.jobs.result("b")["depth"]) == ("berlin", 2)
    world.train("c", [line("sft", "colour?", "grey")], champion, depth=0)
    assert (world.says("c", "capital?"), world.jobs.result("c")["depth"]) == ("bonn", 1)


def test_a_re_distillation_makes_a_whole_table(world: World) -> None:
    world.train("a", [line("sft", "capital?", "berlin")], method="distill")
    assert world.jobs.result("a")["kind"] == "base"
    alone = load(Ref("x", str(world.jobs.folder("a") / "output"), engine="echo"))
    assert alone.answer([ask("capital?"), ask("colour?")], max_new_tokens=9) == ["berlin", "blue"]


def test_an_empty_training_set_is_refused(world: World) -> None:
    view = world.train("a", [line("sft", "capital?", "berlin", weight=0.0)])
    assert (view.state, view.error_kind) == ("failed", "Refused")


def test_an_echo_of_weights_is_a_misconfiguration(world: World) -> None:
    view = world.train("a", [line("sft", "a", "b")], Ref("bot@w", str(world.folder)))
    assert view.error_kind == "Misconfigured"


@pytest.mark.parametrize(
    "body", ["{", "[]", "{}", '{"objective": "rl", "messages": [], "completion": ""}', '{"objective": "sft"}']
)
def test_a_line_that_is_none_of_ours_is_corrupt_and_named(tmp_path: Path, body: str) -> None:
    (tmp_path / "train.jsonl").write_text(body + "\n")
    with pytest.raises(Corrupt, match=r"train\.jsonl line 1"):
        examples.read(tmp_path / "train.jsonl")


def test_a_missing_training_file_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="no training file"):
        examples.read(tmp_path / "train.jsonl")


def test_a_line_separator_within_a_text_does_not_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"objective": "sft", "messages": [{"role": "user", "content": "a"}], "completion": "b\u2028c"}\n')
    assert examples.read(path)[0].completion == "b\u2028c"


def test_answers_are_corrections_and_praise_only(tmp_path: Path) -> None:
    lines = [
        line("sft", "a", "1"),
        line("pair", "a", "2", rejected="3"),
        line("kto", "a", "4", label=True),
        line("kto", "a", "5", label=False),
    ]
    found = examples.answers(examples.read(write_lines(tmp_path / "t.jsonl", lines)))
    assert [one.completion for one in found] == ["1", "4"]


@dataclass(frozen=True)
class Some:
    share: float = 0.5
    name: str = ""
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count is negative")


def test_options_are_read_strictly() -> None:
    assert parse(Some, {"share": 1, "name": "x"}) == Some(1.0, "x", 1)
    for values, words in (
        ({"shares": 1}, "unknown option 'shares'"),
        ({"count": True}, "count = True"),
        ({"count": 1.5}, "count = 1.5"),
        ({"share": "1"}, "share = '1'"),
        ({"count": -1}, "count is negative"),
    ):
        with pytest.raises(Misconfigured, match=words) as caught:
            parse(Some, values)
        assert caught.value.hint


@pytest.mark.parametrize("name", ["echo", "lora", "distill"])
def test_every_method_offers_the_contract_without_importing_torch(name: str) -> None:
    method = training.load(name)
    assert callable(method.train)
    assert parse(method.Options, {}) == method.Options()


def test_an_unknown_method_is_named_with_the_known_ones() -> None:
    for call in (training.load, training.entry):
        with pytest.raises(Misconfigured, match="unknown training method 'rl'"):
            call("rl")


def test_the_refusal_of_an_empty_set_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("")
    with pytest.raises(Refused) as caught:
        examples.read(tmp_path / "t.jsonl")
    assert "collect" in caught.value.hint
