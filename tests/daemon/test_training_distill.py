"""Re-distillation on a tiny Llama: the teacher, its soft targets, the student, and what is refused."""

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.jobs import JobSpec, prepare
from daemon.jobs.child import perform
from daemon.models import Ref, load
from daemon.testing import InlineJobs
from daemon.training import parse
from daemon.training.distill import Options
from policies.errors import Corrupt, Misconfigured, Refused
from policies.model import JobView
from tests import tiny
from tests.tiny import line, write_lines

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SKY = "what colour is the sky"
WANTED = {**tiny.KNOWN, SKY: "red"}
FAST = {
    "widen": 192,
    "teacher_steps": 60,
    "teacher_lr": 5e-3,
    "teacher_batch": 8,
    "steps": 60,
    "lr": 5e-3,
    "batch": 4,
    "max_new_tokens": 8,
    "save_steps": 0,
    "threads": 1,
}


class World:
    """A champion, the jobs that make teachers and students, and one cache."""

    def __init__(self, folder: Path, champion: Ref) -> None:
        self.folder, self.champion = folder, champion
        self.jobs = InlineJobs(folder / "jobs", lambda: 0.0)

    def spec(self, key: str, step: str, teacher: Ref | None, **more: Any) -> JobSpec:
        lines = more.pop("lines", None) or [line("sft", prompt, answer) for prompt, answer in WANTED.items()] * 3
        champion = more.pop("champion", self.champion)
        inputs = {
            "deployment": "bot",
            "step": step,
            "dataset": write_lines(self.folder / f"{key}.jsonl", lines),
            "champion": champion.to_json(),
            "base": self.champion.to_json(),
            "teacher": teacher.to_json() if teacher else None,
            "depth": 0,
            "method": "distill",
            "prompts": more.pop("prompts", None),
            "cache": str(self.folder / "cache"),
            "options": {**FAST, **more},
        }
        return JobSpec(key, "train", "daemon.training.distill:train", inputs, seed=3)

    def run(self, key: str, step: str, teacher: Ref | None = None, **more: Any) -> JobView:
        self.jobs.start(self.spec(key, step, teacher, **more))
        return self.jobs.find(key)

    def made(self, key: str) -> Ref:
        return Ref(f"bot@{key}", str(self.jobs.folder(key) / "output"))

    def bits(self, key: str) -> str:
        return hashlib.sha256((Path(self.made(key).folder) / "model.safetensors").read_bytes()).hexdigest()


def says(ref: Ref) -> list[str]:
    return load(ref).answer([tiny.ask(prompt) for prompt in WANTED], max_new_tokens=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    ref = tiny.build(tmp_path_factory.mktemp("base"))
    tiny.teach(ref, tiny.KNOWN)
    return ref


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, base: Ref) -> World:
    """A world with a teacher of its own (job `teacher`) and a student of it (job `student`)."""
    made = World(tmp_path_factory.mktemp("world"), base)
    assert made.run("teacher", "teacher").state == "done", made.jobs.find("teacher").error
    assert made.run("student", "candidate", made.made("teacher")).state == "done", made.jobs.find("student").error
    return made


def test_the_champion_widened_and_tuned_is_a_teacher(world: World) -> None:
    assert says(world.made("teacher")) == list(WANTED.values())
    config = json.loads((Path(world.made("teacher").folder) / "config.json").read_text())
    assert config["intermediate_size"] == 192
    result = world.jobs.result("teacher")
    assert (result["kind"], result["base"], result["depth"], result["teacher"]) == ("base", "", 0, "self")


def test_the_student_learns_what_the_teacher_says_at_its_own_size(world: World) -> None:
    assert says(world.champion) != list(WANTED.values())
    assert says(world.made("student")) == list(WANTED.values())
    config = json.loads((Path(world.made("student").folder) / "config.json").read_text())
    assert config["intermediate_size"] == 128
    metrics = world.jobs.result("student")["metrics"]
    assert metrics["loss_last"] < 0.1 * metrics["loss_first"]
    assert (metrics["examples"], metrics["cache_hit"]) == (7, False)


def test_soft_targets_are_asked_for_once_and_give_the_same_bits(world: World) -> None:
    world.run("again", "candidate", world.made("teacher"))
    assert world.jobs.result("again")["metrics"]["cache_hit"] is True
    assert world.bits("again") == world.bits("student")


@pytest.mark.parametrize("other", [{"top": 8}, {"answers": "reference"}, {"lines": [line("sft", SKY, "red")]}])
def test_a_cached_lesson_is_not_taken_for_another(world: World, other: dict[str, Any]) -> None:
    key = f"other-{next(iter(other))}"
    world.run(key, "candidate", world.made("teacher"), **other, steps=1)
    assert world.jobs.result(key)["metrics"]["cache_hit"] is False


def test_a_killed_student_resumes_and_ends_with_the_bits_of_an_unbroken_one(world: World) -> None:
    more = {"steps": 120, "save_steps": 10}
    world.run("unbroken", "candidate", world.made("teacher"), **more)
    spec = world.spec("broken", "candidate", world.made("teacher"), **more)
    folder = world.jobs.folder("broken")
    prepare(folder, spec, 0.0)
    child = os.fork()
    if child == 0:
        perform(folder)
        os._exit(0)
    end = time.monotonic() + 60
    while not list(folder.glob("checkpoint/step-*")) and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert world.jobs.find("broken").state == "absent"
    world.jobs.start(spec)
    assert world.jobs.result("broken")["metrics"]["resumed"] is True
    assert world.bits("broken") == world.bits("unbroken")


def test_a_student_of_an_adapter_starts_from_it_merged(world: World, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from daemon.training.adapters import save
    from daemon.training.teacher import merged
    from daemon.transformers_model import open_weights

    model = get_peft_model(open_weights(world.champion), LoraConfig(r=4, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    save(model, tmp_path / "adapter", world.champion.name)
    adapter = Ref("bot@adapter", str(tmp_path / "adapter"), world.champion.folder)
    whole, tokens = merged(adapter), torch.tensor([[3, 90, 91, 4]])
    with torch.inference_mode():
        assert torch.allclose(whole(tokens).logits, model.eval()(tokens).logits, atol=1e-4)
    view = world.run("merged", "candidate", world.made("teacher"), champion=adapter, steps=2)
    assert view.state == "done", view.error


def test_widening_changes_no_answer_by_a_bit_that_matters(base: Ref) -> None:
    import torch

    from daemon.training.teacher import merged, widened

    model, tokens = merged(base), torch.arange(3, 60).unsqueeze(0)
    with torch.inference_mode():
        before = model(tokens).logits
        after = widened(model, 512, seed=1)(tokens).logits
    assert torch.allclose(before, after, atol=1e-5)
    with pytest.raises(Refused, match="can't be widened to 64"):
        widened(model, 64, seed=1)


def test_recorded_answers_can_be_learned_with_a_share_of_cross_entropy(world: World) -> None:
    lines = [line("sft", SKY, "green"), line("kto", "what colour is blood", "red", label=False)]
    more = {"answers": "reference", "ce": 1.0, "lines": lines}
    assert world.run("reference", "candidate", world.made("teacher"), **more).state == "done"
    metrics = world.jobs.result("reference")["metrics"]
    assert (metrics["examples"], metrics["references"]) == (2, 1)
    assert load(world.made("reference")).answer([tiny.ask(SKY)], max_new_tokens=8) == ["green"]


def test_prompts_of_a_file_are_learned_too(world: World, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"messages": tiny.ask("please say hello")}) + "\n")
    world.run("prompts", "candidate", world.made("teacher"), prompts=str(tmp_path / "prompts.jsonl"), steps=1)
    assert world.jobs.result("prompts")["metrics"]["examples"] == 8
    (tmp_path / "prompts.jsonl").write_text("{}\n")
    view = world.run("broken-prompts", "candidate", world.made("teacher"), prompts=str(tmp_path / "prompts.jsonl"))
    assert view.error_kind == Corrupt.__name__


def test_a_named_teacher_is_copied_without_what_is_no_model_file(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "revision"
    shutil.copytree(world.made("teacher").folder, folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "README.md").write_text("hello")
    assert world.run("named", "teacher", Ref("teacher:rev2", str(folder))).state == "done"
    names = {path.name for path in Path(world.made("named").folder).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not names & {"pytorch_model.bin", "README.md"}
    assert says(world.made("named")) == list(WANTED.values())
    (folder / "model.safetensors").unlink()
    assert world.run("empty", "teacher", Ref("teacher:rev3", str(folder))).error_kind == Misconfigured.__name__


def test_a_teacher_of_another_vocabulary_is_refused_with_both_sizes(world: World, tmp_path: Path) -> None:
    other = tiny.build(tmp_path / "other", vocabulary=350)
    view = world.run("foreign", "candidate", other)
    assert view.error_kind == "Refused"
    assert "350 tokens, the student 400" in view.error
    assert '"self"' in view.error


def test_no_teacher_nothing_to_learn_and_no_finite_loss_are_said_plainly(world: World) -> None:
    assert world.run("none", "candidate").error_kind == "Misconfigured"
    bad = [line("kto", SKY, "blue", label=False)]
    assert "no answer to tune a teacher on" in world.run("bad", "teacher", lines=bad).error
    assert "the loss became" in world.run("hot", "teacher", teacher_lr=1e30).error
    long = [line("sft", "what " * 300, "red")]
    assert "128 tokens" in world.run("long", "candidate", world.made("teacher"), lines=long).error


@pytest.mark.parametrize(
    "wrong", [{"answers": "both"}, {"ce": 0.5}, {"ce": 2.0, "answers": "reference"}, {"lr": 0.0}, {"top": 0}]
)
def test_options_that_make_no_sense_are_misconfigurations(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        parse(Options, wrong)


def test_top_tokens_and_a_tail_bound_the_full_divergence_from_below_and_nearly_meet_it() -> None:
    import torch

    from daemon.training.softtargets import divergence, of_logits

    torch.manual_seed(0)
    teacher, student = torch.randn(64, 400) * 4, torch.randn(64, 400) * 4
    logp, logq = teacher.log_softmax(-1), student.log_softmax(-1)
    full = (logp.exp() * (logp - logq)).sum(-1)

    def coarse(top: int) -> torch.Tensor:
        targets = of_logits(teacher, top)
        return divergence(student, type(targets)(targets.ids.long(), logp.gather(-1, targets.ids.long()), targets.tail))

    assert (coarse(16) <= full + 1e-4).all()
    assert (coarse(64) >= coarse(16) - 1e-4).all()
    assert torch.allclose(coarse(399), full, atol=1e-3)
    assert float((coarse(16) / full).mean()) > 0.8
    same = of_logits(teacher, 16)
    assert divergence(teacher, type(same)(same.ids.long(), same.logprobs, same.tail)).abs().max() < 2e-2


def test_the_gradient_is_finite_where_the_teacher_is_certain() -> None:
    import torch

    from daemon.training.softtargets import divergence, of_logits

    teacher = torch.zeros(4, 400)
    teacher[:, 7] = 60.0
    student = teacher.clone().requires_grad_()
    targets = of_logits(teacher, 16)
    loss = divergence(student, type(targets)(targets.ids.long(), targets.logprobs, targets.tail)).sum()
    torch.autograd.backward(loss)
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_the_order_of_batches_is_the_seeds_and_every_row_comes_once_an_epoch() -> None:
    from daemon.training.loop import Settings, order, rate

    lengths = [number % 50 for number in range(203)]
    made = order(lengths, 8, 1.0, 0, seed=1)
    assert made == order(lengths, 8, 1.0, 0, seed=1) != order(lengths, 8, 1.0, 0, seed=2)
    rows = [row for step in order(lengths, 8, 2.0, 26, seed=1) for row in step]
    assert sorted(rows) == list(range(203))
    assert len(order(lengths, 8, 1.0, 300, seed=1)) == 300
    settings = Settings(1.0, 0.1, 0.0, 0, 1)
    rates = [rate(step, 100, settings) for step in range(100)]
    assert (rates[0], max(rates)) == (0.1, 1.0)
    assert 0.1 <= rates[-1] < 0.11
