"""Ways to hold what was known: an update that is held to what the champion already says right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.models import Ref
from tests import tiny
from tests.daemon.test_training_packed import PAD, opened

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
    from daemon.training import packed, packing
    from daemon.training.meter import Meter
    from daemon.training.retain import kl

    read = packing.reader(model, PAD)
    held = kl.held(model, read, rows, share, folder, Meter(lambda *_: None, "held"))
    loss = packed.imitated(rows, read, held=held)
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
