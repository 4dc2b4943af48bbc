"""What a method does with what it can't learn from: a clear end with a reason, nothing made, the champion untouched."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.jobs import JobSpec
from daemon.models import Ref, load
from daemon.testing import InlineJobs
from policies.errors import Misconfigured, Refused
from policies.model import JobView
from tests import tiny
from tests.tiny import line, write_lines

pytestmark = [pytest.mark.torch, pytest.mark.slow]

METHODS = ("lora", "full")
FAST = {"batch": 4, "sft_lr": 2e-3, "sft_epochs": 1, "kto_minimum": 2, "dpo": False, "threads": 1, "save_steps": 0}
SKY, LONG = "what colour is the sky", "what " * 300
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    return tiny.build(tmp_path_factory.mktemp("base"), name="bot@000000000000")


@pytest.fixture
def champion(tmp_path: Path, base: Ref) -> Ref:
    """A copy that a test may spoil."""
    shutil.copytree(base.folder, tmp_path / "champion")
    return Ref(base.name, str(tmp_path / "champion"))


def tried(method: str, champion: Ref, lines: list[dict[str, Any]], folder: Path, **more: Any) -> JobView:
    """Train a method and see to it that the champion's files stay, and that nothing is left where it ended otherwise."""
    before, jobs = files(champion), InlineJobs(folder / "jobs", lambda: 0.0)
    inputs = {
        "dataset": write_lines(folder / "t.jsonl", lines),
        "champion": champion.to_json(),
        "base": champion.to_json(),
        "depth": 0,
        "options": {**FAST, **more},
    }
    jobs.start(JobSpec("job", "train", f"daemon.training.{method}:train", inputs, seed=3))
    view = jobs.find("job")
    assert files(champion) == before
    weights = list((jobs.folder("job") / "output").glob("*.safetensors"))
    assert bool(weights) is (view.state == "done")
    return view


def files(ref: Ref) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(ref.folder).iterdir()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("lines", "more", "said"),
    [
        ([], {}, "the training set is empty"),
        ([line("sft", SKY, "red", weight=0.0)], {}, "the training set is empty"),
        ([line("kto", SKY, "red", label=False)] * 8, {}, "8 ratings (all of one kind: KTO needs both)"),
        ([line("sft", LONG, "red")] * 8, {}, "no example fits into 128 tokens (hint: the shortest takes"),
        ([line("sft", SKY, "red")] * 8, {"sft_lr": 1e30, "sft_epochs": 4}, "lower the learning rate"),
    ],
    ids=["empty", "weightless", "one class", "too long", "not a number"],
)
def test_what_can_not_be_learned_from_is_refused(
    method: str, champion: Ref, tmp_path: Path, lines: list[dict[str, Any]], more: dict[str, Any], said: str
) -> None:
    view = tried(method, champion, lines, tmp_path, **more)
    assert (view.state, view.error_kind) == ("failed", "Refused")
    assert said in view.error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "lines",
    [
        [line("sft", SKY, "red")],
        [line("kto", SKY, "red", label=True)] * 3,
        [line("sft", prompt, "red") for prompt in tiny.KNOWN],
        [line("sft", SKY, "red")] * 3 + [line("sft", LONG, "red")],
    ],
    ids=["one record", "praise alone", "one answer to everything", "one too long"],
)
def test_little_is_learned_from_as_it_is(
    method: str, champion: Ref, tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    view = tried(method, champion, lines, tmp_path)
    assert view.state == "done", view.error


def no_pad(folder: Path) -> None:
    _config(folder, {"pad_token": None})


def end_as_pad(folder: Path) -> None:
    _config(folder, {"pad_token": "<|end|>"})


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def other_vocabulary(folder: Path) -> None:
    """A tokenizer with more tokens than the model has embeddings for."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    most = max(tokenizer["model"]["vocab"].values())
    tokenizer["model"]["vocab"] |= {f"zq{number}": most + 1 + number for number in range(50)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")


def _config(folder: Path, more: dict[str, Any]) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **more}), "utf-8")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_pad, "no pad token of its own"),
        (end_as_pad, "no pad token of its own"),
        (no_template, "no chat template"),
        (other_vocabulary, "its vocabulary holds"),
    ],
)
def test_a_model_that_can_not_be_taught_is_a_misconfiguration_and_can_not_be_asked(
    method: str, champion: Ref, tmp_path: Path, spoil: Change, said: str
) -> None:
    spoil(Path(champion.folder))
    view = tried(method, champion, [line("sft", SKY, "red")] * 4, tmp_path)
    assert (view.state, view.error_kind) == ("failed", "Misconfigured")
    assert said in view.error
    with pytest.raises(Misconfigured, match=said):
        load(champion)


@pytest.mark.parametrize("method", METHODS)
def test_a_template_that_drops_the_system_prompt_is_refused(method: str, champion: Ref, tmp_path: Path) -> None:
    system = {"role": "system", "content": " please help "}
    asked = [system, *tiny.ask(SKY)]
    lines = [line("sft", SKY, "red", messages=asked)] * 4
    assert tried(method, champion, lines, tmp_path).state == "done"
    template = "{% for message in messages if message['role'] != 'system' %}" + tiny.TEMPLATE.split("%}", 1)[1]
    (Path(champion.folder) / "chat_template.jinja").write_text(template, "utf-8")
    (tmp_path / "again").mkdir()
    view = tried(method, champion, lines, tmp_path / "again")
    assert (view.state, view.error_kind) == ("failed", "Refused")
    assert "the chat template drops the system prompt" in view.error
    model = load(champion)
    assert len(model.answer([tiny.ask(SKY)], max_new_tokens=2)) == 1
    with pytest.raises(Refused, match="drops the system prompt"):
        model.answer([asked], max_new_tokens=2)
