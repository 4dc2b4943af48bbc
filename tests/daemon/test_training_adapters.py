"""Every kind of adapter on a tiny Llama: that it trains, is saved, loads unchanged, continues, and where it can't."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.artifact import describe
from daemon.jobs import JobSpec
from daemon.models import Ref, load
from daemon.testing import InlineJobs
from daemon.training import parse
from daemon.training.lora_options import Options
from daemon.training.shape import KINDS, PROMPTED, Shape
from policies.errors import Misconfigured
from policies.model import JobView
from tests import tiny
from tests.tiny import line, write_lines

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SKY, LEGS = "what colour is the sky", "how many legs has a dog"
WANTED = {**tiny.KNOWN, SKY: "red"}
FAST = {"batch": 8, "sft_lr": 5e-3, "sft_epochs": 8, "dpo": False, "kto": False, "threads": 1, "save_steps": 0}
SLOW = {"sft_lr": 0.1, "sft_epochs": 30}  # few parameters, far from the answer, take larger and more steps
STILL = {"sft_epochs": 1, "sft_lr": 1e-9}
DOCUMENTS = [
    ([5, 6, 7, 8], [[9, 10, 1]]),
    ([11] * 30, [[12, 1], [13, 14, 15, 16, 17, 18, 1]]),
    ([20, 21], [[22] * 25 + [1]]),
]
GROWN_BADLY = (
    {"kind": "rslora"}, {"kind": "dora"}, {"rank": "auto"}, {"engine": "trl"}, {"slao": True}, {"sft_osf": 0.5},
)  # fmt: skip
LORAS = tuple(kind for kind in KINDS if kind not in PROMPTED)


def corrections() -> list[dict[str, Any]]:
    """The sky is red from now on; everything else stays."""
    kept = [line("sft", prompt, answer, origin="replay") for prompt, answer in tiny.KNOWN.items() if prompt != SKY]
    return [line("sft", SKY, "red")] * 8 + kept * 2


class World:
    """A champion that knows seven answers, and the jobs that train its successors."""

    def __init__(self, folder: Path, base: Ref) -> None:
        self.folder, self.base = folder, base
        self.jobs = InlineJobs(folder / "jobs", lambda: 0.0)

    def train(self, key: str, lines: list[dict[str, Any]], champion: Ref | None = None, **more: Any) -> JobView:
        depth, base = more.pop("depth", 0), more.pop("base", self.base)
        if more.get("kind") in PROMPTED:
            more = {**SLOW, **more}
        inputs = {
            "dataset": write_lines(self.folder / f"{key}.jsonl", lines),
            "champion": (champion or self.base).to_json(),
            "base": base.to_json(),
            "depth": depth,
            "options": {**FAST, **more},
        }
        self.jobs.start(JobSpec(key, "train", "daemon.training.lora:train", inputs, seed=3))
        return self.jobs.find(key)

    def done(self, key: str, lines: list[dict[str, Any]], champion: Ref | None = None, **more: Any) -> dict[str, Any]:
        view = self.train(key, lines, champion, **more)
        assert view.state == "done", view.error
        return self.jobs.result(key)

    def made(self, key: str) -> Ref:
        return Ref(f"bot@{key}", str(self.output(key)), self.base.folder)

    def output(self, key: str) -> Path:
        return self.jobs.folder(key) / "output"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    ref = tiny.build(tmp_path_factory.mktemp("base"))
    tiny.teach(ref, tiny.KNOWN)
    return ref


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, base: Ref) -> World:
    """A world in which every kind, a job by its name, has learned that the sky is red."""
    world, before = World(tmp_path_factory.mktemp("world"), base), bits(Path(base.folder))
    for kind in KINDS:
        world.done(kind, corrections(), kind=kind)
    assert bits(Path(base.folder)) == before
    return world


def bits(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def says(ref: Ref, prompts: Sequence[str] = tuple(WANTED)) -> list[str]:
    return load(ref).answer([tiny.ask(prompt) for prompt in prompts], max_new_tokens=8)


def told(ref: Ref) -> list[Any]:
    """What a version answers, and what it thinks of some answers, rounded."""
    model, asked = load(ref), [tiny.ask(prompt) for prompt in WANTED]
    nats = model.logprobs(asked, ["paris red"] * len(asked))
    return [model.answer(asked, max_new_tokens=8), [round(value, 3) for value, _ in nats]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_the_correction_and_keeps_what_was_replayed(world: World, kind: str) -> None:
    assert says(world.base) != list(WANTED.values())
    assert says(world.made(kind)) == list(WANTED.values())
    stage = world.jobs.result(kind)["metrics"]["stages"]["sft"]
    assert stage["loss_last"] < 0.1 * stage["loss_first"]
    assert world.jobs.result(kind)["metrics"]["adapter"]["kind"] == kind


def test_every_kind_says_the_same_in_a_fresh_process(world: World) -> None:
    code = (
        "import json, sys; from daemon.models import Ref; from tests.daemon.test_training_adapters import told;"
        "print(json.dumps([told(Ref.from_json(one)) for one in json.loads(sys.argv[1])]))"
    )
    refs = [world.made(kind) for kind in KINDS]
    asked = [sys.executable, "-c", code, json.dumps([ref.to_json() for ref in refs])]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(asked, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout.splitlines()[-1]) == [told(ref) for ref in refs]


def nats(model: Any) -> Any:
    """What PEFT's or transformers' own forward makes of every answer, each read alone."""
    import torch
    from torch.nn.functional import cross_entropy

    found = []
    for prompt, answers in DOCUMENTS:
        for answer in answers:
            tokens = torch.tensor([prompt + answer])
            with torch.no_grad():
                logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0]
            found.append(cross_entropy(logits[-len(answer) - 1 : -1], torch.tensor(answer), reduction="none"))
    return torch.cat(found)


def plain(ref: Ref) -> Any:
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    return auto.from_pretrained(ref.folder).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_what_was_saved_unchanged_over_the_unchanged_base(world: World, kind: str) -> None:
    from peft import PeftModel

    from daemon.training import packing
    from daemon.transformers_model import open_weights

    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in world.output(kind).iterdir()}
    theirs = nats(PeftModel.from_pretrained(plain(world.base), str(world.output(kind))).eval())
    ours = packing.padded(open_weights(world.made(kind)).eval(), DOCUMENTS, pad=0).detach()
    assert float((theirs - ours).abs().max()) < 1e-4
    assert float((theirs - nats(plain(world.base))).abs().max()) > 0.1


@pytest.mark.parametrize("kind", LORAS)
def test_transformers_loads_the_kinds_of_lora_and_vllm_would_all_but_dora(world: World, kind: str) -> None:
    """What vLLM's PEFTHelper and its loader ask for: no DoRA, no further modules, no bias, and these names of weights."""
    from safetensors import safe_open

    from daemon.transformers_model import open_weights

    model = plain(world.base)
    model.load_adapter(str(world.output(kind)))
    assert float((nats(model) - nats(open_weights(world.made(kind)).eval())).abs().max()) < 1e-4
    config = json.loads((world.output(kind) / "adapter_config.json").read_text())
    assert config["use_dora"] is (kind == "dora")
    assert (config["modules_to_save"], config["bias"], config["peft_type"]) == (None, "none", "LORA")
    assert config["r"] == (32 if kind == "pissa" else 16)
    with safe_open(world.output(kind) / "adapter_model.safetensors", "pt") as file:
        names = [name for name in file.keys() if "magnitude" not in name]  # noqa: SIM118 (it is no dict)
    pattern = r"base_model\.model\.model\.layers\.\d+\.(self_attn|mlp)\.\w+\.lora_[AB]\.weight"
    assert [name for name in names if not re.fullmatch(pattern, name)] == []


@pytest.mark.parametrize("kind", PROMPTED)
def test_a_prefix_or_prompt_reads_the_same_packed_in_rows_and_alone(world: World, kind: str) -> None:
    import torch

    from daemon.training import packing
    from daemon.training.adapters import opened

    shape = Shape(kind, virtual_tokens=16)
    model = opened(world.base, world.output(kind), shape, device="cpu", quantisation="").eval()
    rows = packing.padded(model, DOCUMENTS, pad=0)
    alone = torch.cat([packing.padded(model, [(p, [a])], pad=0) for p, answers in DOCUMENTS for a in answers])
    assert packing.reader(model, 0) is packing.packed
    together = packing.packed(model, DOCUMENTS)
    assert float((rows - alone).detach().abs().max()) < 1e-5
    assert float((together - rows).detach().abs().max()) < 1e-5
    torch.autograd.backward(together.sum())
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(float(gradient.norm()) > 0 for gradient in gradients)


@pytest.mark.parametrize("kind", PROMPTED)
def test_an_answer_behind_a_prefix_is_the_same_in_a_batch_alone_and_by_generate(world: World, kind: str) -> None:
    import torch
    from peft import PeftModel

    from daemon.transformers_model import open_tokenizer, prompt_tokens

    prompts = [SKY, LEGS, "what is", "hello"]
    together = says(world.made(kind), prompts)
    assert together == [says(world.made(kind), [prompt])[0] for prompt in prompts]
    theirs, tokenizer = (
        PeftModel.from_pretrained(plain(world.base), str(world.output(kind))).eval(),
        open_tokenizer(world.base),
    )
    for prompt, answer in zip(prompts, together, strict=True):
        tokens = torch.tensor([prompt_tokens(tokenizer, tiny.ask(prompt))])
        made: list[int] = []
        while len(made) < 8 and made[-1:] != [tokenizer.eos_token_id]:
            row = torch.cat([tokens, torch.tensor([made], dtype=torch.long)], 1)
            with torch.no_grad():
                made.append(int(theirs(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -1].argmax()))
        assert tokenizer.decode(made, skip_special_tokens=True).strip() == answer


def test_a_base_with_windows_of_attention_takes_no_prefix(tmp_path: Path, base: Ref) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    from daemon.training.adapters import opened

    config = MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, pad_token_id=0,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(Misconfigured, match="can't have a prefix"):
        opened(Ref("x", str(tmp_path)), None, Shape("prefix"), device="cpu", quantisation="")


def test_pissa_begins_as_the_base_itself_and_is_saved_over_the_base_as_it_is(world: World, tmp_path: Path) -> None:
    import torch

    from daemon.training import adapters

    model = adapters.opened(world.base, None, Shape("pissa", 8), device="cpu", quantisation="").eval()
    whole, start = nats(plain(world.base)), adapters.trained(model)
    assert float((nats(model) - whole).abs().max()) < 1e-4
    assert all(float(value.norm()) > 0 for value in start.values())
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn_like(parameter))
    moved = nats(model)
    adapters.save(model, tmp_path / "a", world.base.name, "pissa", start)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (16, 64, True)
    again = Ref("a", str(tmp_path / "a"), world.base.folder)
    from daemon.transformers_model import open_weights

    assert float((nats(open_weights(again).eval()) - moved).abs().max()) < 1e-4
    assert float((moved - whole).abs().max()) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_continued_where_it_is_alike(world: World, kind: str) -> None:
    key = f"next-{kind}"
    result = world.done(key, [line("sft", LEGS, "four")] * 4, world.made(kind), depth=1, kind=kind, **STILL)
    assert (result["depth"], result["started"]) == (2, f"continued from bot@{kind}")
    assert told(world.made(key)) == told(world.made(kind))


@pytest.mark.parametrize(
    ("before", "more", "why"),
    [
        ("lora", {"depth": 0}, "a fresh start was asked for"),
        ("lora", {"rank": 8}, "rank differs: 16 before, 8 now"),
        ("pissa", {"kind": "pissa", "rank": 8}, "rank differs: 16 before, 8 now"),
        ("lora", {"alpha": 16}, "alpha differs: 32 before, 16 now"),
        ("lora", {"targets": "q_proj,v_proj"}, "targets differs"),
        ("lora", {"freeze_layers": 1}, "freeze_layers differs: 0 before, 1 now"),
        ("lora", {"kind": "rslora"}, "kind differs: lora before, rslora now"),
        ("lora", {"kind": "dora"}, "kind differs: lora before, dora now"),
        ("pissa", {"rank": 32, "alpha": 64}, "kind differs: pissa before, lora now"),
        ("lora", {"kind": "prefix"}, "kind differs: lora before, prefix now"),
        ("prompt", {}, "kind differs: prompt before, lora now"),
        ("prompt", {"kind": "prompt", "virtual_tokens": 8}, "virtual_tokens differs: 16 before, 8 now"),
    ],
)
def test_an_adapter_that_is_not_alike_begins_fresh_and_says_why(
    world: World, before: str, more: dict[str, Any], why: str
) -> None:
    key = f"fresh {before} {why}"
    result = world.done(key, [line("sft", LEGS, "four")] * 4, world.made(before), **{"depth": 1, **STILL, **more})
    assert why in result["started"]
    assert result["depth"] == 1


def test_an_adapter_of_another_base_is_refused(world: World) -> None:
    other = Ref("tiny@111111111111", world.base.folder)
    view = world.train("other", corrections(), world.made("lora"), depth=1, base=other)
    assert (view.state, view.error_kind) == ("failed", "Refused")
    assert "is an adapter of tiny@000000000000, and its base here is tiny@111111111111" in view.error


def test_frozen_layers_get_no_adapter(world: World) -> None:
    from safetensors.torch import load_file

    world.done("frozen", corrections(), freeze_layers=1)
    names = load_file(world.output("frozen") / "adapter_model.safetensors")
    assert {name.split(".layers.")[1][0] for name in names} == {"1"}
    assert says(world.made("frozen"), [SKY]) == ["red"]
    view = world.train("all-frozen", corrections(), freeze_layers=2)
    assert (view.error_kind, "the base has 2 layers" in view.error) == ("Misconfigured", True)


@pytest.mark.parametrize("kind", ["dora", "prefix"])
def test_other_kinds_train_over_a_quantised_base_too(world: World, kind: str) -> None:
    result = world.done(f"nf4-{kind}", corrections(), kind=kind, quantisation="nf4")
    stage = result["metrics"]["stages"]["sft"]
    assert stage["loss_last"] < 0.5 * stage["loss_first"]


@pytest.mark.parametrize("kind", ["pissa", "prompt"])
def test_pairs_are_learned_from_by_other_kinds_and_the_reference_is_where_the_stage_began(
    world: World, kind: str
) -> None:
    lines = [line("pair", SKY, "red", rejected="blue")] * 12
    more = {"dpo": True, "dpo_minimum": 8, "dpo_lr": 5e-2 if kind == "prompt" else 2e-3, "dpo_epochs": 8, "sft": False}
    more |= {"dpo_imitate": 0.0}
    stage = world.done(f"pairs-{kind}", lines, kind=kind, **more)["metrics"]["stages"]["dpo"]
    assert stage["loss_first"] == pytest.approx(0.693, abs=1e-3)
    assert stage["loss_last"] < 0.5


def test_a_champion_with_many_updates_is_merged_into_a_new_base(world: World) -> None:
    before = bits(world.output("lora"))
    lines = [line("sft", LEGS, "eight")] * 8 + [line("sft", p, a) for p, a in WANTED.items() if p != LEGS] * 2
    result = world.done("whole", lines, world.made("lora"), depth=2, merge_depth=2)
    assert (result["kind"], result["base"], result["depth"]) == ("base", "", 0)
    assert result["started"] == "2 stacked updates, merge_depth is 2: merged into a new base"
    names = {path.name for path in world.output("whole").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "adapter_config.json" not in names
    assert says(Ref("bot@whole", str(world.output("whole")))) == [{**WANTED, LEGS: "eight"}[one] for one in WANTED]
    assert bits(world.output("lora")) == before
    world.done("as-it-was", lines, world.made("lora"), depth=2, merge_depth=2, **STILL)
    assert told(Ref("bot@as-it-was", str(world.output("as-it-was")))) == told(world.made("lora"))
    result = world.done("not-yet", lines, world.made("lora"), depth=1, merge_depth=2)
    assert (result["kind"], result["depth"]) == ("adapter", 2)


def test_the_tokenizer_of_a_version_is_its_champions_to_the_byte(world: World) -> None:
    before = describe(Path(world.base.folder))
    world.done("merged-tokenizer", corrections(), world.made("lora"), depth=2, merge_depth=2)
    for output in (world.output("lora"), world.output("merged-tokenizer")):
        after = describe(output)
        assert (after["tokenizer"], after["chat_template"]) == (before["tokenizer"], before["chat_template"])


def test_an_update_in_directions_of_its_own_grows_the_adapter_and_leaves_the_older_part_alone(world: World) -> None:
    import torch
    from safetensors.torch import load_file

    def factors(key: str) -> dict[str, Any]:
        return load_file(world.output(key) / "adapter_model.safetensors")

    def along(key: str) -> float:
        """How far the new rows of all first factors reach along the older ones."""
        return sum(
            float((part[16:] @ part[:16].T).square().sum()) for name, part in factors(key).items() if "lora_A" in name
        )

    lines = [line("sft", LEGS, "eight")] * 8 + [line("sft", p, a) for p, a in WANTED.items() if p != LEGS] * 2
    before, more = factors("lora"), {"depth": 1, "weight_decay": 0.1}
    result = world.done("own", lines, world.made("lora"), olora=0.5, **more)
    assert (result["depth"], result["started"]) == (2, "continued from bot@lora")
    assert says(world.made("own")) == [{**WANTED, LEGS: "eight"}[one] for one in WANTED]
    for name, part in factors("own").items():
        older, newer = part.split(16, dim=0 if "lora_A" in name else 1)
        assert torch.equal(older, before[name])
        assert newer.abs().max() > 0
    world.done("free", lines, world.made("lora"), olora=1e-9, **more)
    assert along("own") < 0.2 * along("free")
    world.done("still", lines, world.made("lora"), depth=1, olora=0.5, **STILL)
    assert told(world.made("still")) == told(world.made("lora"))
    third = world.done("third", lines, world.made("own"), depth=2, olora=0.5)
    assert (third["depth"], json.loads((world.output("third") / "adapter_config.json").read_text())["r"]) == (3, 48)
    narrower = world.done("narrower", lines, world.made("own"), depth=2, olora=0.5, rank=12, alpha=24)
    assert narrower["started"] == "rank differs: 16 before, 12 now"


def test_later_stages_leave_the_older_part_of_a_grown_adapter_alone(world: World) -> None:
    import torch
    from safetensors.torch import load_file

    lines = corrections() + [line("pair", SKY, "red", rejected="blue")] * 12
    more = {"olora": 0.5, "dpo": True, "dpo_minimum": 8, "dpo_lr": 2e-3}
    result = world.done("both", lines, world.made("lora"), depth=1, **more)
    assert list(result["metrics"]["stages"]) == ["sft", "dpo"]
    before, after = (load_file(world.output(key) / "adapter_model.safetensors") for key in ("lora", "both"))
    for name, part in after.items():
        assert torch.equal(part.narrow(0 if "lora_A" in name else 1, 0, 16), before[name])
    assert {part.shape[0] for name, part in after.items() if "lora_A" in name} == {32}


def test_a_prefix_can_not_be_merged(world: World) -> None:
    view = world.train("merged-prefix", corrections(), world.made("prefix"), depth=2, merge_depth=2)
    assert (view.error_kind, "can't be merged" in view.error) == ("Refused", True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "ia3"},
        {"rank": "large"},
        {"rank": 1.5},
        {"virtual_tokens": 0},
        {"freeze_layers": -1},
        {"kind": "prefix", "rank": "auto"},
        {"kind": "prompt", "freeze_layers": 1},
        {"kind": "prompt", "engine": "trl"},
        {"kind": "prefix", "merge_depth": 2},
        {"kind": "pissa", "quantisation": "nf4"},
        {"kind": "pissa", "engine": "trl"},
        {"merge_depth": -1},
        {"olora": -0.1},
        {"lora_plus": 0.5},
        {"lora_plus": 2.0, "engine": "trl", "sft_hold": 0.0},
        {"lora_plus": 2.0, "kind": "prompt"},
        *({"olora": 0.5, **one} for one in GROWN_BADLY),
    ],
)
def test_options_that_do_not_fit_together_are_misconfigurations(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        parse(Options, wrong)


def test_a_rank_above_a_layers_width_is_a_misconfiguration_of_pissa(world: World) -> None:
    view = world.train("wide", corrections(), kind="pissa", rank=80)
    assert (view.error_kind, "only 64 dimensions" in view.error) == ("Misconfigured", True)
