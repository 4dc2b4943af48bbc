"""LoRA updates on a tiny Llama: that they learn, continue, resume and refuse."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.jobs import Job, JobSpec, prepare
from daemon.jobs.child import perform
from daemon.jobs.local import LocalJobs
from daemon.models import Ref, load
from daemon.testing import InlineJobs
from daemon.training import examples, parse
from daemon.training.lora import plan
from daemon.training.lora_options import ENGINES, Options
from daemon.training.resume import read_json_whole
from policies.errors import Misconfigured, Refused
from policies.model import JobView
from tests import tiny
from tests.tiny import line, write_lines

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SKY, LEGS = "what colour is the sky", "how many legs has a dog"
FAST = {"batch": 8, "sft_lr": 5e-3, "sft_epochs": 8, "dpo": False, "kto": False, "threads": 1, "save_steps": 0}
FAST |= {"sft_hold": 0.0}  # held to nothing: TRL's engine can't
ENTRY = "daemon.training.lora:train"


def corrections() -> list[dict[str, Any]]:
    """The sky is red from now on; everything else stays."""
    kept = [line("sft", prompt, answer, origin="replay") for prompt, answer in tiny.KNOWN.items() if prompt != SKY]
    return [line("sft", SKY, "red")] * 8 + kept * 2


class World:
    """A champion that knows seven answers, and the jobs that train its successors."""

    def __init__(self, folder: Path, base: Ref) -> None:
        self.folder, self.base = folder, base
        self.jobs = InlineJobs(folder / "jobs", lambda: 0.0)

    def spec(self, key: str, lines: list[dict[str, Any]], champion: Ref | None, **more: Any) -> JobSpec:
        inputs = {
            "deployment": "bot",
            "step": "candidate",
            "dataset": write_lines(self.folder / f"{key}.jsonl", lines),
            "champion": (champion or self.base).to_json(),
            "base": self.base.to_json(),
            "depth": more.pop("depth", 0),
            "method": "lora",
            "options": {**FAST, **more},
        }
        return JobSpec(key, "train", ENTRY, inputs, seed=3)

    def train(self, key: str, lines: list[dict[str, Any]], champion: Ref | None = None, **more: Any) -> JobView:
        self.jobs.start(self.spec(key, lines, champion, **more))
        return self.jobs.find(key)

    def made(self, key: str) -> Ref:
        return Ref(f"bot@{key}", str(self.jobs.folder(key) / "output"), self.base.folder)

    def stage(self, key: str, name: str) -> dict[str, Any]:
        return dict(self.jobs.result(key)["metrics"]["stages"][name])

    def bits(self, key: str) -> bytes:
        return (self.jobs.folder(key) / "output" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    ref = tiny.build(tmp_path_factory.mktemp("base"))
    tiny.teach(ref, tiny.KNOWN)
    return ref


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, base: Ref) -> World:
    """A world in which job `first` has learned that the sky is red."""
    world = World(tmp_path_factory.mktemp("world"), base)
    assert world.train("first", corrections()).state == "done", world.jobs.find("first").error
    return world


@pytest.fixture
def world(tmp_path: Path, base: Ref) -> World:
    return World(tmp_path, base)


def says(ref: Ref, *prompts: str) -> list[str]:
    return load(ref).answer([tiny.ask(prompt) for prompt in prompts], max_new_tokens=8)


def test_an_update_learns_the_correction_and_keeps_what_was_replayed(learned: World) -> None:
    assert says(learned.base, SKY) == ["blue"]
    wanted = {**tiny.KNOWN, SKY: "red"}
    assert says(learned.made("first"), *wanted) == list(wanted.values())
    stage = learned.stage("first", "sft")
    assert stage["loss_last"] < 0.1 * stage["loss_first"]


def test_a_result_says_what_was_made_and_what_it_took(learned: World) -> None:
    result = learned.jobs.result("first")
    told = {name: result[name] for name in ("kind", "engine", "base", "depth", "method", "started")}
    assert told == {
        "kind": "adapter",
        "engine": "transformers",
        "base": learned.base.name,
        "depth": 1,
        "method": "lora",
        "started": "the champion has no adapter",
    }
    assert result["tokens"] > 1000
    assert result["seconds"] > 0
    assert learned.jobs.find("first").progress == "trained on 20 examples"


def test_the_output_is_the_models_files_only_and_names_no_path(learned: World) -> None:
    output = learned.jobs.folder("first") / "output"
    assert sorted(path.name for path in output.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    config = json.loads((output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == learned.base.name
    assert config["target_modules"] == sorted(config["target_modules"])
    assert str(learned.folder.parent) not in (output / "adapter_config.json").read_text()


def test_an_adapter_loads_in_a_fresh_process(learned: World) -> None:
    code = (
        "import json, sys; from daemon.models import Ref, load; ref = Ref.from_json(json.loads(sys.argv[1]));"
        "print(load(ref).answer([[{'role': 'user', 'content': sys.argv[2]}]], max_new_tokens=8)[0])"
    )
    asked = [sys.executable, "-c", code, json.dumps(learned.made("first").to_json()), SKY]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run(asked, capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.strip() == "red"


def test_two_runs_with_one_seed_give_equal_bits(learned: World) -> None:
    learned.train("second", corrections())
    assert learned.bits("second") == learned.bits("first")


def of_each() -> list[dict[str, Any]]:
    """Corrections, pairs and ratings, none of which contradicts another."""
    pairs = [line("pair", "what colour is blood", "blue", rejected="red")] * 6
    ratings = [line("kto", LEGS, "four", label=False), line("kto", "what colour is grass", "green", label=True)] * 4
    rated = {LEGS, "what colour is grass", "what colour is blood"}
    kept = [one for one in corrections() if one["messages"][0]["content"] not in rated]
    return [*kept, *pairs, *ratings]


MIXED = {"mixed": True, "dpo": True, "dpo_minimum": 2, "kto": True, "kto_minimum": 2, "dpo_share": 2.0}


def test_objectives_in_one_stage_all_get_their_way(learned: World) -> None:
    learned.jobs.start(learned.spec("mixed", of_each(), None, **MIXED, sft_epochs=20))
    assert learned.jobs.find("mixed").state == "done", learned.jobs.find("mixed").error
    stages = learned.jobs.result("mixed")["metrics"]["stages"]
    assert list(stages) == ["mixed"]
    assert (stages["mixed"]["examples"], stages["mixed"]["steps"]) == (38, 100)
    each = stages["mixed"]["objectives"]
    assert {name: (one["examples"], one["share"]) for name, one in each.items()} == {
        "sft": (24, 0.25), "dpo": (6, 0.5), "kto": (8, 0.25),
    }  # fmt: skip
    assert all(one["loss_last"] < 0.8 * one["loss_first"] for one in each.values()), each
    weighed = sum(one["share"] * one["loss_last"] for one in each.values())
    assert stages["mixed"]["loss_last"] == pytest.approx(weighed)
    assert says(learned.made("mixed"), SKY) == ["red"]
    before, after = load(learned.base), load(learned.made("mixed"))

    def gained(prompt: str, answer: str) -> float:
        return after.logprobs([tiny.ask(prompt)], [answer])[0][0] - before.logprobs([tiny.ask(prompt)], [answer])[0][0]

    assert gained("what colour is blood", "blue") > gained("what colour is blood", "red") + 1
    assert gained(LEGS, "four") < gained("what colour is grass", "green")


def test_progress_names_each_objectives_loss() -> None:
    from daemon.training.meter import Meter

    told: list[str] = []
    meter = Meter(lambda text, _: told.append(text), "mixed")
    meter.tell(3, 3, loss=1.5, parts={"sft": 2.0, "kto": 1.0})
    meter.tell(3, 3, loss=1.5)
    assert [text.split(" · ")[1] for text in told] == ["loss 1.500 (sft 2.000, kto 1.000)", "loss 1.500"]


@pytest.mark.parametrize(
    ("engine", "mark"),
    [("packed", "sft/step-*/state.json"), ("trl", "sft/*/trainer_state.json"), ("mixed", "mixed/step-*/state.json")],
)
def test_a_killed_run_resumes_from_its_checkpoint_and_ends_with_the_bits_of_an_unbroken_one(
    learned: World, engine: str, mark: str
) -> None:
    lines, more = corrections() * 2, {"save_steps": 4, "engine": engine}
    if engine == "mixed":
        lines, more = of_each(), {"save_steps": 4, "sft_epochs": 10, **MIXED}
    learned.train(f"unbroken-{engine}", lines, **more)
    key = f"broken-{engine}"
    spec = learned.spec(key, lines, None, **more)
    folder = learned.jobs.folder(key)
    prepare(folder, spec, 0.0)
    child = os.fork()
    if child == 0:
        perform(folder)
        os._exit(0)
    end = time.monotonic() + 60
    while not any(map(read_json_whole, folder.glob(f"checkpoint/{mark}"))) and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert learned.jobs.find(key).state == "absent"
    learned.jobs.start(spec)
    [(name, stage)] = learned.jobs.result(key)["metrics"]["stages"].items()
    assert (name, stage["resumed"]) == (mark.partition("/")[0], True)
    assert stage["objectives"] == learned.stage(f"unbroken-{engine}", name)["objectives"]
    assert learned.bits(key) == learned.bits(f"unbroken-{engine}")


def test_both_engines_learn_a_set_equally_well(learned: World) -> None:
    """Same examples, steps, rate and seed: what TRL's trainer comes to is what our own step comes to."""
    assert learned.train("by-trl", corrections(), engine="trl").state == "done", learned.jobs.find("by-trl").error
    ours, theirs = learned.stage("first", "sft"), learned.stage("by-trl", "sft")
    assert (ours["engine"], theirs["engine"]) == ("packed", "trl")
    assert ours["steps"] == theirs["steps"]
    assert ours["loss_last"] < 2 * theirs["loss_last"]
    wanted = {**tiny.KNOWN, SKY: "red"}
    assert says(learned.made("by-trl"), *wanted) == says(learned.made("first"), *wanted) == list(wanted.values())


def test_a_child_of_a_warm_worker_trains_the_same_bits(learned: World) -> None:
    jobs = LocalJobs(learned.folder / "local", lambda: 0.0, preload=True)
    begin = time.monotonic()
    jobs.start(learned.spec("warm", corrections(), None))
    assert time.monotonic() - begin < 1.0
    while jobs.find("warm").state == "running" and time.monotonic() - begin < 240:
        time.sleep(0.05)
    jobs.close()
    assert jobs.find("warm").state == "done", jobs.find("warm").error
    assert (jobs.folder("warm") / "output" / "adapter_model.safetensors").read_bytes() == learned.bits("first")


def test_the_champions_adapter_is_continued(learned: World) -> None:
    learned.train("next", [line("sft", LEGS, "two")] * 4, learned.made("first"), depth=1, sft_epochs=1, sft_lr=1e-9)
    result = learned.jobs.result("next")
    assert (result["depth"], result["started"]) == (2, "continued from bot@first")
    assert says(learned.made("next"), SKY) == ["red"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"depth": 0}, "a fresh start was asked for"),
        ({"depth": 1, "rank": 8}, "rank differs: 16 before, 8 now"),
        ({"depth": 1, "targets": "q_proj,v_proj"}, "targets differs"),
    ],
)
def test_an_adapter_of_another_shape_starts_fresh(learned: World, more: dict[str, Any], why: str) -> None:
    key = f"fresh-{more.get('rank', 16)}-{more.get('targets', 'all')[:2]}"
    learned.train(key, [line("sft", LEGS, "two")] * 4, learned.made("first"), **more, sft_epochs=1, sft_lr=1e-9)
    result = learned.jobs.result(key)
    assert why in result["started"]
    assert result["depth"] == 1
    assert says(learned.made(key), SKY) == ["blue"]


@pytest.mark.parametrize("engine", ENGINES)
def test_pairs_and_ratings_move_the_model_their_way(learned: World, engine: str) -> None:
    key = f"preferences-{engine}"
    pairs = [line("pair", SKY, "red", rejected="blue")] * 12
    ratings = [line("kto", LEGS, "four", label=False), line("kto", "what colour is grass", "green", label=True)] * 8
    more = {"dpo": True, "dpo_minimum": 8, "dpo_lr": 2e-3, "dpo_epochs": 3}
    more |= {"kto": True, "kto_minimum": 8, "kto_lr": 2e-3, "kto_epochs": 3}
    more |= {"dpo_imitate": 0.0, "kto_imitate": 0.0}
    view = learned.train(key, pairs + ratings, **more, engine=engine)
    assert view.state == "done", view.error
    assert learned.stage(key, "dpo")["loss_first"] == pytest.approx(math.log(2), abs=1e-4)
    assert learned.stage(key, "dpo")["loss_last"] < 0.6
    before, after = load(learned.base), load(learned.made(key))

    def gained(prompt: str, answer: str) -> float:
        return after.logprobs([tiny.ask(prompt)], [answer])[0][0] - before.logprobs([tiny.ask(prompt)], [answer])[0][0]

    assert gained(SKY, "red") > gained(SKY, "blue") + 1
    assert gained(LEGS, "four") < gained("what colour is grass", "green")
    names = [path.name for path in (learned.jobs.folder(key) / "output").iterdir()]
    assert "ref" not in names


@pytest.mark.parametrize("engine", ENGINES)
def test_a_heavier_example_outweighs_a_lighter_one(learned: World, engine: str) -> None:
    lines = [line("sft", SKY, "red", weight=0.05), line("sft", SKY, "green", weight=1.0)] * 8
    learned.train(f"weights-{engine}", lines, sft_epochs=6, engine=engine)
    assert says(learned.made(f"weights-{engine}"), SKY) == ["green"]


@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_an_adapter_over_a_quantised_base_really_trains(learned: World, quantisation: str) -> None:
    view = learned.train(quantisation, corrections(), quantisation=quantisation)
    assert view.state == "done", view.error
    stage = learned.stage(quantisation, "sft")
    assert stage["loss_last"] < 0.2 * stage["loss_first"]
    assert says(learned.made(quantisation), SKY) == ["red"]


def test_a_loss_that_is_no_number_is_refused(world: World) -> None:
    view = world.train("a", corrections(), sft_lr=1e30)
    assert (view.state, view.error_kind) == ("failed", "Refused")
    assert "lower the learning rate" in view.error


def test_examples_longer_than_the_context_are_left_out_and_counted(world: World) -> None:
    lines = [*corrections(), line("sft", "what " * 300, "red")]
    world.train("a", lines, sft_epochs=0.5)
    stage = world.stage("a", "sft")
    assert (stage["examples"], stage["dropped"]) == (20, 1)
    view = world.train("b", [line("sft", "what " * 300, "red")])
    assert view.error_kind == "Refused"
    assert "128 tokens" in view.error


def test_an_empty_set_a_single_record_and_ratings_of_one_kind_end_clearly(world: World) -> None:
    view = world.train("empty", [])
    assert view.error_kind == "Refused"
    assert "the training set is empty" in view.error
    assert world.train("one", [line("sft", SKY, "red")], sft_epochs=2).state == "done"
    assert (world.stage("one", "sft")["examples"], world.stage("one", "sft")["steps"]) == (1, 2)
    one_kind = [line("kto", SKY, answer, label=False) for answer in ("blue", "grey")] * 5
    view = world.train("bad", one_kind, kto=True, kto_minimum=2)
    assert view.error_kind == "Refused"
    assert "10 ratings (all of one kind: KTO needs both)" in view.error


def test_the_changed_part_of_a_correction_can_count_more(learned: World) -> None:
    """The first word is not the user's: under a heavy edit the model hardly has to repeat it."""
    said, wanted = "the answer is blue", "the answer is red"
    lines = [line("sft", SKY, wanted), line("pair", SKY, wanted, rejected=said)] * 4
    for key, weight in (("alike", 1.0), ("edited", 50.0)):
        assert learned.train(key, lines, edit_weight=weight, sft_epochs=1, sft_lr=1e-3).state == "done"
    nats = {key: load(learned.made(key)).logprobs([tiny.ask(SKY)], [said])[0][0] for key in ("alike", "edited")}
    assert nats["alike"] > nats["edited"] + 0.05


@pytest.mark.parametrize("wrong", [{"pad_token": "<|end|>"}, {"pad_token": None}])
def test_a_tokenizer_without_a_pad_token_of_its_own_is_a_misconfiguration(world: World, wrong: dict[str, Any]) -> None:
    folder = world.folder / "champion"
    shutil.copytree(world.base.folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **wrong}))
    view = world.train("a", corrections(), Ref("bot@x", str(folder)))
    assert view.error_kind == "Misconfigured"
    assert "pad token" in view.error


def test_a_missing_template_an_echo_and_unknown_options_are_misconfigurations(world: World) -> None:
    folder = world.folder / "champion"
    shutil.copytree(world.base.folder, folder)
    (folder / "chat_template.jinja").unlink()
    assert "chat template" in world.train("a", corrections(), Ref("bot@x", str(folder))).error
    assert "no weights" in world.train("b", corrections(), Ref("bot@y", str(folder), engine="echo")).error
    assert "unknown option" in world.train("c", corrections(), lr=1.0).error
    assert "targets" in world.train("d", corrections(), targets="no_such_layer").error
    assert {world.jobs.find(key).error_kind for key in "abcd"} == {"Misconfigured"}


def groups(lines: list[dict[str, Any]], folder: Path, **options: Any) -> dict[str, int]:
    read = examples.read(write_lines(folder / "t.jsonl", lines))
    return {name: len(group) for name, group in plan(read, parse(Options, options)).items()}


def test_stages_are_what_the_data_offers(tmp_path: Path) -> None:
    pair = line("pair", SKY, "red", rejected="blue")
    good, bad = line("kto", SKY, "red", label=True), line("kto", SKY, "blue", label=False)
    sft = line("sft", SKY, "red")
    assert groups([sft], tmp_path) == {"sft": 1}
    assert groups([sft, *[pair] * 60, *[good, bad] * 30], tmp_path) == {"sft": 1, "dpo": 60, "kto": 60}
    assert groups([sft, *[pair] * 60, *[good, bad] * 30], tmp_path, dpo=False, kto=False) == {"sft": 31}
    assert groups([good] * 60, tmp_path) == {"sft": 60}
    assert groups([sft, good, bad], tmp_path, imitate_positives=False) == {"sft": 1}
    other = line("pair", LEGS, "eight", rejected="four")  # what is preferred of the first pairs is imitated already
    some = [sft, *[pair] * 60, other, *[good, bad] * 30]
    assert groups(some, tmp_path, mixed=True) == {"sft": 1 + 1 + 30, "dpo": 61, "kto": 60}
    assert groups(some, tmp_path, mixed=True, imitate_positives=False) == {"sft": 1, "dpo": 61, "kto": 60}
    with pytest.raises(Refused, match="0 answers, 3 pairs, 1 ratings"):
        groups([pair, pair, pair, bad], tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0},
        {"engine": "unsloth"},
        {"edit_weight": 0.5},
        {"edit_weight": 2.0, "engine": "trl"},
        {"batch": 1},
        {"batch": 16, "micro_batch": 5},
        {"quantisation": "int3"},
        {"schedule": "steps"},
        {"dpo_robust": 0.5},
        {"dpo_imitate": -0.1},
        {"kto_imitate": -0.1},
        {"kto_lr": 0.0},
        {"kto_share": 0.0},
        {"sft_share": -1.0},
        {"mixed": True, "engine": "trl"},
    ],
)
def test_options_that_make_no_sense_are_misconfigurations(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        parse(Options, wrong)


def test_each_stage_imitates_what_its_own_option_says() -> None:
    from daemon.training.plan import Plan

    options = parse(Options, {"dpo_imitate": 0.5, "kto_imitate": 2.0})
    found = [Plan.of(options, name, 60, 4, seed=1, gpu=False).imitate for name in ("sft", "dpo", "kto")]
    assert found == [0.0, 0.5, 2.0]


def test_ratings_are_interleaved_and_no_batch_has_one_row_or_one_label() -> None:
    from daemon.training.tokens import Sample, interleaved

    samples = [Sample([1], [number], [], number < 30, 1.0) for number in range(45)]
    rows = interleaved(samples, 2.0, 4, seed=1)
    assert len(rows) == 88
    batches = [rows[start : start + 4] for start in range(0, 88, 4)]
    assert sum(len({one.label for one in batch}) == 2 for batch in batches) >= 20
    assert rows != interleaved(samples, 2.0, 4, seed=2)


def test_a_weight_is_how_often_a_sample_is_drawn() -> None:
    from daemon.training.tokens import Sample, drawn, evened

    samples = evened(
        [Sample([1], [number], [], True, weight) for number, weight in enumerate([3.0, 1.0, 0.5, 1.5])], [1] * 4
    )
    assert sum(one.weight for one in samples) == pytest.approx(4)
    counts = [0, 0, 0, 0]
    for seed in range(400):
        for one in drawn(samples, seed):
            counts[one.answer[0]] += 1
    assert [count / 400 for count in counts] == pytest.approx([one.weight for one in samples], abs=0.1)


def test_a_checkpoint_of_other_data_is_not_continued(tmp_path: Path) -> None:
    from daemon.training.resume import claim

    def job(lines: list[dict[str, Any]]) -> Job:
        inputs = {"dataset": write_lines(tmp_path / "t.jsonl", lines), "champion": {}}
        return Job("k", "train", inputs, 1, 0.0, tmp_path)

    first = job([line("sft", "a", "b")])
    (claim(first, {"rank": 4}) / "mark").write_text("")
    assert (claim(first, {"rank": 4}) / "mark").exists()
    assert not (claim(first, {"rank": 8}) / "mark").exists()
    (claim(first, {"rank": 8}) / "mark").write_text("")
    assert not (claim(job([line("sft", "a", "c")]), {"rank": 8}) / "mark").exists()


def test_a_checkpoint_cut_off_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    from daemon.training.resume import newest

    assert newest(tmp_path) is None
    for step, body in ((5, "{}"), (10, "{}"), (15, '{"st'), (20, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if body is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(body)
    assert newest(tmp_path) == tmp_path / "checkpoint-10"
