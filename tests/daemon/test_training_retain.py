"""Ways to hold what was known, one by one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.models import Ref
from tests import tiny
from tests.daemon.test_training_packed import PAD, opened, plan

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    return tiny.build(tmp_path_factory.mktemp("base"))


def said(model: Any, prompt: list[int], length: int) -> list[int]:
    """What the model says after a prompt, token by token, likeliest first."""
    import torch

    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(length):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def samples(model: Any) -> list[Any]:
    """An answer that the model gives, and one that it doesn't."""
    from daemon.training.tokens import Sample

    prompts = ([5, 6, 7, 8], [20, 21, 9])
    known = said(model, prompts[0], 3)
    other = [token + 1 for token in said(model, prompts[1], 3)]
    return [Sample(prompts[0], known, [], True, 1.0), Sample(prompts[1], other, [], True, 1.0)]


def losses(model: Any, rows: Sequence[Any], share: float, folder: Path) -> list[Any]:
    """The loss of every row, held to the model as it is."""
    from daemon.training import packing
    from daemon.training.meter import Meter
    from daemon.training.objectives import sft
    from daemon.training.retain import kl

    read = packing.reader(model, PAD)
    held = kl.held(model, read, rows, share, folder, Meter(lambda *_: None, "held"))
    loss = sft.imitated(rows, read, held=held)
    return [loss(model, [row]) for row in range(len(rows))]


def test_what_the_champion_says_is_held_and_what_it_does_not_say_is_imitated(base: Ref, tmp_path: Path) -> None:
    import torch

    from daemon.training import packing

    model = opened(base)
    rows = samples(model)
    nats = packing.reader(model, PAD)(model, [(one.prompt, [one.answer]) for one in rows])
    held, imitated = losses(model, rows, 1.0, tmp_path)
    assert abs(held.item()) < 1e-3  # nothing has moved yet
    assert torch.allclose(imitated, nats[3:].sum(), atol=1e-4)
    half = losses(model, rows, 0.5, tmp_path)
    assert torch.allclose(half[0], nats[:3].sum() / 2, atol=1e-3)
    assert torch.allclose(half[1], imitated)


def test_moving_away_from_the_champion_costs_and_the_champion_is_asked_once(base: Ref, tmp_path: Path) -> None:
    import torch

    model = opened(base)
    rows = samples(model)
    before = losses(model, rows, 1.0, tmp_path)[0].item()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-1.0)
    moved = losses(model, rows, 1.0, tmp_path)[0]
    assert moved.item() > before + 0.005  # a second call reads what was kept, it doesn't ask the moved model
    moved.backward()
    pulls = [p.grad.abs().max() for name, p in model.named_parameters() if "lora_B" in name]
    assert float(torch.stack(pulls).max()) > 0


def test_a_share_of_the_way_lies_between_the_start_and_the_end(base: Ref) -> None:
    import torch

    from daemon.training import adapters
    from daemon.training.retain import merge

    model = opened(base)
    start = adapters.trained(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    merge.back(model, start, 1.0)
    assert all(torch.equal(p, start[name] + 1.0) for name, p in model.named_parameters() if p.requires_grad)
    merge.back(model, start, 0.75)
    ended = adapters.trained(model)
    assert all(torch.allclose(ended[name], before + 0.75) for name, before in start.items())


def replayed(model: Any) -> list[Any]:
    """Four samples; the champion says the second replayed one, but not the first."""
    from dataclasses import replace

    known, other = samples(model)
    new = [replace(known, prompt=[9, 8, 7]), replace(other, prompt=[6, 6])]
    return [new[0], replace(other, replayed=True), replace(known, replayed=True), new[1]]


def surprises(model: Any, rows: Sequence[Any], folder: Path) -> list[Any]:
    from daemon.training import packing
    from daemon.training.retain import asked

    return asked.surprises(model, packing.reader(model, PAD), rows, folder)


def test_the_champions_surprise_is_asked_once_and_is_what_its_answers_cost(base: Ref, tmp_path: Path) -> None:
    import torch

    from daemon.training import packing

    model = opened(base)
    rows = samples(model)
    told = torch.cat(surprises(model, rows, tmp_path))
    wanted = packing.reader(model, PAD)(model, [(one.prompt, [one.answer]) for one in rows])
    assert torch.allclose(told, wanted, atol=1e-4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert torch.equal(torch.cat(surprises(model, rows, tmp_path)), told)
    assert model.training


def test_of_the_replayed_those_that_the_champion_is_least_sure_of_are_left(base: Ref, tmp_path: Path) -> None:
    from daemon.training.retain import forgotten

    model = opened(base)
    rows = replayed(model)
    told = surprises(model, rows, tmp_path)
    assert forgotten.first(rows, told, 0.5) == [rows[0], rows[1], rows[3]]  # one is wrong, the other is said
    assert forgotten.first(rows, told, 0.01) == [rows[0], rows[1], rows[3]]
    assert forgotten.first(rows, told, 1.0) == rows


def test_a_token_that_the_champion_finds_unlikely_is_not_learned() -> None:
    from dataclasses import replace

    import torch

    from daemon.training.retain import mask
    from daemon.training.tokens import Sample

    plain = Sample([5], [6, 7, 1], [], True, 1.0)
    emphatic = replace(plain, emphasis=(0.5, 2.0, 0.5))
    told = [torch.tensor([1.0, 3.0, 0.0])] * 2
    masked = mask.hidden([plain, emphatic], told, 10.0)  # ln 10 is 2.3 nats
    assert [one.emphasis for one in masked] == [(1.0, 0.0, 1.0), (0.5, 0.0, 0.5)]
    assert mask.hidden([plain], told[:1], 21.0)[0].emphasis == (1.0, 1.0, 1.0)


def test_what_old_answers_need_is_expensive_to_move_and_the_rest_is_free(base: Ref, tmp_path: Path) -> None:
    import torch

    from daemon.training import packing
    from daemon.training.retain import ewc

    model = opened(base)
    rows, read = replayed(model), packing.reader(model, PAD)
    assert ewc.anchor(model, read, [rows[0], rows[3]], 1.0, tmp_path / "none") is None
    anchor = ewc.anchor(model, read, rows, 2.0, tmp_path)
    assert anchor is not None
    assert anchor.cost(model).item() == 0.0
    parts = [(one.prompt, [one.answer]) for one in rows[1:3]]
    name = next(name for name in anchor.start if "lora_B" in name)
    weight = dict(model.named_parameters())[name]
    squares = [torch.autograd.grad(read(model, [part]).mean(), weight)[0] ** 2 for part in parts]
    assert torch.allclose(anchor.fisher[name], sum(squares) / 2, rtol=1e-3, atol=1e-9)
    with torch.no_grad():
        weight.add_(0.1)
    assert anchor.cost(model).item() == pytest.approx(0.01 * float(anchor.fisher[name].sum()), rel=1e-3)
    again = ewc.anchor(model, read, rows, 2.0, tmp_path)  # kept: the moved model isn't asked
    assert again is not None
    assert torch.equal(again.fisher[name], anchor.fisher[name])


@pytest.mark.parametrize("slao_updates", [1, 4])
def test_the_fourth_update_goes_half_the_way_but_for_its_first_factors(base: Ref, slao_updates: int) -> None:
    import torch

    from daemon.training import adapters, packing
    from daemon.training.retain import slao

    model = opened(base)
    documents = [(one.prompt, [one.answer]) for one in samples(model)]
    before = packing.padded(model, documents, pad=PAD)
    slao.begin(model)
    assert torch.allclose(packing.padded(model, documents, pad=PAD), before, atol=1e-4)
    start = adapters.trained(model)
    first = next(p for name, p in start.items() if "lora_A" in name)
    assert torch.allclose(first @ first.T, torch.eye(len(first)), atol=1e-5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in start:
                parameter.add_(1.0)
    slao.back(model, start, slao_updates)
    for name, value in adapters.trained(model).items():
        gone = 1.0 if "lora_A" in name else slao_updates**-0.5
        assert torch.allclose(value, start[name] + gone, atol=1e-5), name


def fitted(base: Ref, folder: Path, **more: Any) -> tuple[Any, Any]:
    """How far two epochs move the adapter, and what the run came to."""
    import torch

    from daemon.training import adapters, packed
    from daemon.training.meter import Meter
    from daemon.transformers_model import open_tokenizer

    model = opened(base)
    rows, start = replayed(model), adapters.trained(model)
    done = packed.fit(model, open_tokenizer(base), rows, plan("sft", **more), folder, Meter(lambda *_: None, "x"))
    moved = adapters.trained(model)
    return torch.cat([(moved[name] - start[name]).flatten() for name in start]), done


def test_the_engine_obeys_every_retainer(base: Ref, tmp_path: Path) -> None:
    import torch

    plain, free = fitted(base, tmp_path / "plain")
    assert (free.tokens, free.asked) == (2 * 24, 0)
    fewer, done = fitted(base, tmp_path / "forgotten", forgotten=0.5)
    assert (done.tokens, done.asked) == (2 * 17, 24)
    masked, done = fitted(base, tmp_path / "mask", mask=1.5)
    assert (done.tokens, done.asked) == (2 * 24, 24)
    pulled, done = fitted(base, tmp_path / "ewc", ewc=1e4)
    assert (done.tokens, done.asked) == (2 * 24, 13)
    assert len({round(float(moved.norm()), 6) for moved in (plain, fewer, masked, pulled)}) == 4
    assert not torch.equal(plain, masked)
    far, near = (fitted(base, tmp_path / f"{strength}", ewc=strength, epochs=20.0)[0] for strength in (0.0, 1e6))
    assert near.norm().item() < 0.8 * far.norm().item()


def test_what_a_layer_does_most_stays_what_it_was(base: Ref, tmp_path: Path) -> None:
    import torch

    from daemon.training import packed
    from daemon.training.meter import Meter
    from daemon.transformers_model import open_tokenizer

    def product(layer: Any) -> Any:
        return (layer.get_base_layer().weight + layer.get_delta_weight("default")).detach()

    def moved(share: float) -> tuple[Any, Any]:
        """How far a layer's weight moved, and how far between its first singular directions."""
        model = opened(base)
        layer = next(one for one in model.modules() if "default" in getattr(one, "lora_A", ()))
        before = product(layer)
        left, values, right = torch.linalg.svd(before)
        count = len(values) // 4
        done = plan("sft", osf=share, batch=2, micro=2)
        packed.fit(
            model, open_tokenizer(base), replayed(model), done, tmp_path / str(share), Meter(lambda *_: None, "x")
        )
        change = product(layer) - before
        return change.norm(), (left[:, :count].T @ change @ right[:count].T).norm()

    whole, between = moved(0.25)
    assert whole > 0.05
    assert between < 1e-4 * whole
    whole, between = moved(0.0)
    assert between > 1e-2 * whole


def test_a_new_record_counts_as_often_as_it_is_favoured() -> None:
    from dataclasses import replace

    from daemon.training.tokens import Sample, evened, favoured

    new = Sample([5], [6, 1], [], True, 1.0)
    rows = [new, replace(new, replayed=True), replace(new, replayed=True)]
    weights = [one.weight for one in evened(favoured(rows, 2.0), [1] * 3)]
    assert weights == pytest.approx([1.5, 0.75, 0.75])
    assert favoured(rows, 1.0) == rows


@pytest.mark.parametrize("kind", ["pissa", "prefix", "prompt"])
@pytest.mark.parametrize("way", [{"slao": True}, {"sft_osf": 0.5}])
def test_ways_that_look_at_a_loras_factors_are_refused_where_there_are_none(kind: str, way: dict[str, Any]) -> None:
    from daemon.training.lora_options import Options

    with pytest.raises(ValueError, match="has none of its own"):
        Options(kind=kind, **way)
    assert Options(kind="rslora", **way).kind == "rslora"
