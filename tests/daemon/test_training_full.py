"""Full fine-tuning of a tiny Llama: that it learns, holds frozen layers, goes on after a kill, and refuses."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.artifact import describe
from daemon.jobs import JobSpec, prepare
from daemon.jobs.child import perform
from daemon.models import Ref, load
from daemon.testing import InlineJobs
from daemon.training import parse
from daemon.training.full import Options
from policies.errors import Misconfigured
from policies.model import JobView
from tests import tiny
from tests.tiny import line, write_lines

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SKY = "what colour is the sky"
WANTED = {**tiny.KNOWN, SKY: "red"}
FAST = {"batch": 8, "sft_lr": 2e-3, "sft_epochs": 8, "dpo": False, "kto": False, "threads": 1, "save_steps": 0}


def corrections() -> list[dict[str, Any]]:
    """The sky is red from now on; everything else stays."""
    kept = [line("sft", prompt, answer) for prompt, answer in WANTED.items() if prompt != SKY]
    return [line("sft", SKY, "red")] * 8 + kept * 2


class World:
    """A champion that knows seven answers, and the jobs that train its successors."""

    def __init__(self, folder: Path, champion: Ref) -> None:
        self.folder, self.champion = folder, champion
        self.jobs = InlineJobs(folder / "jobs", lambda: 0.0)

    def spec(self, key: str, lines: list[dict[str, Any]], champion: Ref | None = None, **more: Any) -> JobSpec:
        inputs = {
            "dataset": write_lines(self.folder / f"{key}.jsonl", lines),
            "champion": (champion or self.champion).to_json(),
            "base": self.champion.to_json(),
            "depth": 3,
            "options": {**FAST, **more},
        }
        return JobSpec(key, "train", "daemon.training.full:train", inputs, seed=3)

    def train(self, key: str, lines: list[dict[str, Any]], champion: Ref | None = None, **more: Any) -> JobView:
        self.jobs.start(self.spec(key, lines, champion, **more))
        return self.jobs.find(key)

    def weights(self, key: str) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.jobs.folder(key) / "output" / "model.safetensors")

    def bits(self, key: str) -> bytes:
        return (self.jobs.folder(key) / "output" / "model.safetensors").read_bytes()

    def says(self, key: str) -> list[str]:
        ref = Ref(f"bot@{key}", str(self.jobs.folder(key) / "output"))
        return load(ref).answer([tiny.ask(prompt) for prompt in WANTED], max_new_tokens=8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world in which job `first` has learned that the sky is red."""
    champion = tiny.build(tmp_path_factory.mktemp("base"))
    tiny.teach(champion, tiny.KNOWN)
    made = World(tmp_path_factory.mktemp("world"), champion)
    assert made.train("first", corrections()).state == "done", made.jobs.find("first").error
    return made


def test_all_weights_learn_the_correction_and_a_new_base_comes_out(world: World) -> None:
    assert world.says("first") == list(WANTED.values())
    result = world.jobs.result("first")
    told = {name: result[name] for name in ("kind", "base", "depth", "method", "started")}
    assert told == {
        "kind": "base", "base": "", "depth": 0, "method": "full", "started": "all weights of tiny@000000000000",
    }  # fmt: skip
    made, before = (describe(Path(folder)) for folder in (world.jobs.folder("first") / "output", world.champion.folder))
    assert (made["tokenizer"], made["chat_template"]) == (before["tokenizer"], before["chat_template"])
    stage = result["metrics"]["stages"]["sft"]
    assert stage["loss_last"] < 0.1 * stage["loss_first"]
    world.train("second", corrections())
    assert world.bits("second") == world.bits("first")


def test_an_adapter_is_merged_before_it(world: World) -> None:
    adapter = world.spec("adapter", corrections())
    options = {**FAST, "sft_lr": 5e-3}
    world.jobs.start(
        JobSpec("adapter", "train", "daemon.training.lora:train", {**adapter.inputs, "options": options}, seed=3)
    )
    over = Ref("bot@adapter", str(world.jobs.folder("adapter") / "output"), world.champion.folder)
    world.train("merged", [line("sft", SKY, "red")] * 4, over, sft_epochs=1, sft_lr=1e-9)
    assert world.says("merged") == list(WANTED.values())


def test_frozen_layers_and_the_embeddings_below_them_stay(world: World) -> None:
    import torch
    from safetensors.torch import load_file

    assert world.train("frozen", corrections(), freeze_layers=1).state == "done"
    before = load_file(Path(world.champion.folder) / "model.safetensors")
    after = world.weights("frozen")
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if ".layers.1." in name or name == "model.norm.weight"}
    view = world.train("none", corrections(), freeze_layers=2)
    assert (view.error_kind, "leave one to train" in view.error) == ("Misconfigured", True)


def test_pairs_and_ratings_move_the_model_their_way(world: World) -> None:
    pairs = [line("pair", SKY, "red", rejected="blue")] * 12
    rated = [line("kto", SKY, "green", label=False), line("kto", "what colour is blood", "red", label=True)] * 8
    more = {"dpo": True, "dpo_minimum": 8, "dpo_lr": 1e-3, "kto": True, "kto_minimum": 8, "kto_lr": 1e-3}
    more |= {"dpo_imitate": 0.0, "kto_imitate": 0.0}
    assert world.train("preferences", pairs + rated, **more).state == "done", world.jobs.find("preferences").error
    stages = world.jobs.result("preferences")["metrics"]["stages"]
    assert list(stages) == ["dpo", "kto"]
    assert stages["dpo"]["loss_first"] == pytest.approx(0.693, abs=1e-3)
    refs = (world.champion, Ref("b", str(world.jobs.folder("preferences") / "output")))
    before, after = (load(ref).logprobs([tiny.ask(SKY)] * 2, ["red", "blue"]) for ref in refs)
    assert after[0][0] - before[0][0] > after[1][0] - before[1][0] + 1


def test_a_killed_run_goes_on_from_its_stage_and_its_checkpoint_with_the_bits_of_an_unbroken_one(world: World) -> None:
    lines = corrections() + [line("pair", SKY, "red", rejected="blue")] * 12
    more = {"save_steps": 2, "dpo": True, "dpo_minimum": 8, "dpo_epochs": 20.0, "dpo_lr": 1e-4, "batch": 4}
    assert world.train("unbroken", lines, **more).state == "done"
    folder, spec = world.jobs.folder("broken"), world.spec("broken", lines, **more)
    prepare(folder, spec, 0.0)
    child = os.fork()
    if child == 0:
        perform(folder)
        os._exit(0)
    end = time.monotonic() + 120
    while not list(folder.glob("checkpoint/dpo/step-*/state.json")) and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (folder / "checkpoint" / "sft-done").exists()
    assert world.jobs.find("broken").state == "absent"
    world.jobs.start(spec)
    assert world.jobs.result("broken")["metrics"]["stages"]["dpo"]["resumed"] is True
    assert world.bits("broken") == world.bits("unbroken")


def test_a_large_model_is_refused_with_what_it_would_take(world: World) -> None:
    view = world.train("large", corrections(), maximum_parameters=1000)
    assert (view.state, view.error_kind) == ("failed", "Refused")
    assert "parameters" in view.error
    assert "GiB to train all of them" in view.error


@pytest.mark.parametrize(
    "wrong",
    [
        {"maximum_parameters": 0},
        {"batch": 1},
        {"micro_batch": 3},
        {"schedule": "x"},
        {"dpo_robust": 0.5},
        {"dpo_imitate": -0.1},
        {"kto_imitate": -0.1},
        {"sft_lr": 0.0},
    ],
)
def test_options_that_make_no_sense_are_misconfigurations(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        parse(Options, wrong)
