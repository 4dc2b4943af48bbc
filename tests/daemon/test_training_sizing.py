"""rank = "auto" and targets = "auto": what is tried, on what, and the reason that is left."""

from pathlib import Path
from typing import Any

import pytest

from daemon.models import Ref
from tests import tiny
from tests.daemon.test_training_adapters import World
from tests.tiny import line

pytestmark = [pytest.mark.torch, pytest.mark.slow]

AUTO = {"rank": "auto", "targets": "auto", "sft_epochs": 1}


def lessons(count: int) -> list[dict[str, Any]]:
    """So many questions, every answer one of two words."""
    words = tiny.WORDS.split()
    return [line("sft", f"what {words[n % 40]} {words[n // 40]}", words[n % 2]) for n in range(count)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, tiny.build(tmp_path / "base"))


def test_more_examples_are_worth_larger_ranks_and_none_above_a_layers_width() -> None:
    from daemon.training.sizing import ladder

    assert ladder(50, 4096) == (8,)
    assert ladder(1200, 4096) == (4, 8, 16)
    assert ladder(5000, 4096) == (8, 16, 32)
    assert ladder(100_000, 4096) == (16, 32, 64)
    assert ladder(100_000, 24) == (16,)
    assert ladder(100_000, 12) == (12,)


def test_a_larger_size_has_to_be_worth_it() -> None:
    from daemon.training.sizing import best

    assert best({4: 1.2, 8: 1.0, 16: 0.995}) == 8
    assert best({4: 1.2, 8: 1.0, 16: 0.98}) == 16
    assert best({4: 1.0, 8: 1.1, 16: 1.2}) == 4


def test_a_question_is_on_one_side_of_the_slice_alone() -> None:
    from daemon.training.sizing import split
    from daemon.training.tokens import Sample

    samples = [Sample([n % 40], [n], [], True, 1.0) for n in range(120)]
    train, held = split(samples, 1)
    assert (len(train), len(held)) == (105, 15)
    assert not {one.prompt[0] for one in train} & {one.prompt[0] for one in held}
    assert split(samples, 1) == (train, held)
    assert split(samples, 2) != (train, held)


def test_auto_tries_sizes_and_says_why_the_same_way_every_time(world: World) -> None:
    result = world.done("auto", lessons(160), **AUTO)
    shape = result["metrics"]["adapter"]
    assert shape["rank"] in (4, 8, 16)
    assert "160 examples, 20 of them held out from trials of 30 steps" in result["sized"]
    assert f"rank {shape['rank']}: nats a held-out token" in result["sized"]
    assert f"targets {shape['targets']}: nats a held-out token" in result["sized"]
    assert "with k_proj,o_proj,q_proj,v_proj" in result["sized"]
    assert world.done("again", lessons(160), **AUTO)["sized"] == result["sized"]
    bits = [(world.output(key) / "adapter_model.safetensors").read_bytes() for key in ("auto", "again")]
    assert bits[0] == bits[1]


def test_a_continued_adapter_keeps_its_size(world: World) -> None:
    world.done("first", lessons(20), rank=4, sft_epochs=1, targets="q_proj")
    first = Ref("bot@first", str(world.output("first")), world.base.folder)
    result = world.done("next", lessons(160), first, depth=1, **AUTO)
    assert result["started"] == "continued from bot@first"
    assert result["sized"] == "the champion's adapter is continued as it is"
    shape = result["metrics"]["adapter"]
    assert (shape["rank"], shape["targets"]) == (4, "q_proj")


def test_few_answers_and_pairs_alone_take_a_rank_without_a_trial(world: World) -> None:
    result = world.done("few", lessons(20), **AUTO)
    assert result["sized"] == "rank 8: 20 answers to imitate are too few for a trial"
    assert (result["metrics"]["adapter"]["rank"], result["metrics"]["adapter"]["targets"]) == (8, "all-linear")
    pairs = [line("pair", "what is", "red", rejected="blue")] * 8
    result = world.done("pairs", pairs, dpo=True, dpo_minimum=2, **AUTO)
    assert result["sized"] == "rank 8: 0 answers to imitate are too few for a trial"
