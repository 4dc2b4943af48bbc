"""The shorter ways of our training step say what the longer ones say: the output layer, the last decoder layer, the layers
that normalise, those that turn by positions, and LoRA's.
"""

from pathlib import Path
from typing import Any

import pytest

from tests import tiny

pytestmark = [pytest.mark.torch, pytest.mark.slow]

DOCUMENTS = [([5, 6, 7, 8], [[9, 10, 1]]), ([11] * 30, [[12, 1], [13, 14, 15, 16, 1]])]


def opened(folder: Path, **shape: Any) -> Any:
    """A model whose adapter already says something."""
    import torch

    from daemon.training.adapters import opened
    from daemon.training.shape import Shape

    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = opened(tiny.build(folder), None, Shape(rank=4, **shape), device="cpu", quantisation="")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model.train()


def learned(model: Any) -> list[Any]:
    """What documents cost, and the gradient, as the model is read in training."""
    import torch

    from daemon.training import packing

    read = packing.reader(model, 0)
    torch.manual_seed(2)
    nats = read(model, DOCUMENTS)
    model.zero_grad()
    (nats * torch.arange(len(nats))).sum().backward()
    return [nats.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])]


def test_costs_without_kept_logits_are_cross_entropy_with_its_gradient() -> None:
    import torch
    from torch.nn.functional import cross_entropy

    from daemon.training import head

    torch.manual_seed(1)
    weight, labels = torch.randn(40_000, 8), torch.randint(40_000, (230,))  # more than are computed at once
    assert len(weight) > head.TILES["cpu"][1]
    states, factors = torch.randn(230, 8, requires_grad=True), torch.randn(230)
    wanted = cross_entropy(states @ weight.T, labels, reduction="none")
    found = head.nats(states, weight, labels)
    assert torch.allclose(found, wanted, atol=1e-5)
    ours, theirs = (torch.autograd.grad((each * factors).sum(), states)[0] for each in (found, wanted))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)  # sums of 40,000 in another order
    with torch.autocast("cpu", torch.bfloat16):
        rough = head.nats(states, weight, labels)
    (slope,) = torch.autograd.grad((rough * factors).sum(), states)
    assert torch.cosine_similarity(slope.flatten(), theirs.flatten(), dim=0) > 0.999


RATED = [
    ([5, 6, 7], [[8, 9, 1], [10, 1]]),
    ([11] * 30, [[12, 1], [1], [13, 14, 1]]),
    ([15, 16], [[17, 1], [18, 19, 20, 1]]),
]
LEARNED = [True, False, True, False, False, False, True]


def windowed() -> Any:
    """A model whose attention has a window, and whose output layer is trained."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=4, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    return MistralForCausalLM(config).train()


@pytest.mark.parametrize("kind", ["lora", "prefix", "window"])
def test_answers_that_nobody_learns_from_are_read_as_the_others_and_have_no_gradient(tmp_path: Path, kind: str) -> None:
    import torch

    from daemon.training import packing

    model = windowed() if kind == "window" else opened(tmp_path, kind=kind)
    read = packing.reader(model, 0)
    assert read is packing.packed
    widths: list[int] = []
    layer = next(module for name, module in model.named_modules() if name.endswith("layers.0.mlp"))
    layer.register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[1]))
    found, wanted = read(model, RATED, learned=LEARNED), read(model, RATED)
    few, many = [3 + 2 + 30 + 1 + 2 + 3, 1 + 2 + 1], [3 + 2 + 1 + 30 + 1 + 2 + 2 + 1 + 3]
    assert widths == ([*many, *many] if kind == "prefix" else [*few, *many])  # no prompt is read twice
    assert torch.allclose(found, wanted, atol=1e-5)
    sizes = [len(answer) for _, answers in RATED for answer in answers]
    mine = torch.tensor(LEARNED).repeat_interleave(torch.tensor(sizes))
    trained = [one for one in model.parameters() if one.requires_grad]
    ours, theirs = (torch.autograd.grad(each[mine].sum(), trained) for each in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    foreign = torch.autograd.grad(read(model, RATED, learned=LEARNED)[~mine].sum(), trained)
    assert any(one.any() for one in foreign) is (kind == "prefix")


@pytest.mark.parametrize("heads", [4, 2])
def test_attention_by_runs_is_causal_attention_within_documents(heads: int) -> None:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from daemon.training import layout, runs

    torch.manual_seed(1)
    documents = [([5] * 150, [[6] * 40, [7] * 3, [8], [9] * 100]), ([5], [[1]])]
    both = layout.pack(documents, torch.device("cpu"))
    first = layout.pack([(prompt, answers[:1]) for prompt, answers in documents], torch.device("cpu"), seen=True)
    more = layout.follow(first, [(prompt, answers[:1]) for prompt, answers in documents], [documents[0][1][1:], []])
    count = both.tokens.shape[1]
    assert count == first.tokens.shape[1] + more.tokens.shape[1] == 150 + 39 + 2 + 99 + 1
    query, key, value = (torch.randn(count, one, 8, requires_grad=True) for one in (4, heads, heads))
    assert runs.fits(query, both.runs)
    assert max(run.last - run.first for run in both.runs) <= runs.MOST < 189
    near = torch.zeros(count, count, dtype=torch.bool)
    for start, end in ((0, 189), (189, 191), (191, 290), (290, 291)):  # the prompt of 150 is seen from all before 290
        near[start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
    near[150:290, :150] = True
    wanted = scaled_dot_product_attention(
        *(each.transpose(0, 1).unsqueeze(0) for each in (query, key, value)), near, scale=0.3, enable_gqa=True
    )[0].transpose(0, 1)
    found = runs.attended(query, key, value, both.runs, 0.3)
    assert torch.allclose(found, wanted, atol=1e-5)
    slope = torch.randn(found.shape)
    ours, theirs = (torch.autograd.grad((each * slope).sum(), (query, key, value)) for each in (found, wanted))
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(ours, theirs, strict=True))
    own = [*range(189), 290]  # what is read first; the rest follows, its keys behind
    others = [one for one in range(count) if one not in own]
    again = runs.attended(query[others], key[own + others], value[own + others], more.runs, 0.3)
    assert torch.allclose(again, wanted[others], atol=1e-5)


def test_long_sequences_and_other_precisions_are_left_to_the_usual_kernels(tmp_path: Path) -> None:
    import torch

    from daemon.training import packing, runs

    model = opened(tmp_path)
    documents = [([11] * 100, [[12, 1]]), ([13] * (runs.LONGEST + 10), [[14, 1], [15, 16, 1]])]
    layout = packing.pack(documents, torch.device("cpu"))
    query = torch.randn(5, 4, 8)
    assert not runs.fits(query, layout.runs)
    assert runs.fits(query, layout.runs[:1])
    assert not runs.fits(query.half(), layout.runs[:1])
    read = packing.reader(model, 0)
    alone = torch.cat([read(model, [document]) for document in documents])
    assert torch.allclose(read(model, documents), alone, atol=1e-5)


def test_documents_of_which_nobody_learns_are_read_whole(tmp_path: Path) -> None:
    import torch

    from daemon.training import packing

    model = opened(tmp_path)
    read = packing.reader(model, 0)
    learned = [True, False, False, False, False, True, True]  # the second document has no answer to learn from
    assert torch.equal(read(model, RATED, learned=learned), read(model, RATED))


def test_an_output_layer_that_does_more_or_is_trained_keeps_its_logits(tmp_path: Path) -> None:
    from daemon.training import head

    model = opened(tmp_path)
    inner = model.get_base_model()
    assert head.weight(model) is inner.lm_head.weight
    inner.config.final_logit_softcapping = 30.0
    assert head.weight(model) is None
    inner.config.final_logit_softcapping = None
    inner.lm_head.weight.requires_grad_()
    assert head.weight(model) is None


def test_a_lora_layer_says_the_same_in_fewer_passes(tmp_path: Path) -> None:
    import torch

    from daemon.training import packing

    model = opened(tmp_path)
    theirs = packing.padded(model, DOCUMENTS, pad=0)
    (theirs * torch.arange(len(theirs))).sum().backward()
    slopes = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    nats, ours = learned(model)
    assert torch.allclose(nats, theirs, atol=1e-5)
    assert torch.allclose(ours, slopes, atol=1e-4)
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    x = torch.randn(2, 3, layer.in_features, requires_grad=True)
    assert layer(x).grad_fn.name() == "_AddedBackward"
    with model.disable_adapter():
        assert torch.equal(layer(x), layer.base_layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    before = layer(x).detach()
    layer.merge()
    assert torch.allclose(layer(x), before, atol=1e-5)


@pytest.mark.parametrize("shape", [{"dropout": 0.5}, {"kind": "dora"}])
def test_other_adapters_are_left_to_peft(tmp_path: Path, shape: dict[str, Any]) -> None:
    import torch

    model = opened(tmp_path, **shape)
    learned(model)
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    x = torch.randn(2, 3, layer.in_features)
    assert layer(x).grad_fn.name() != "_AddedBackward"


def test_the_last_layer_works_for_answers_alone(tmp_path: Path) -> None:
    import torch

    from daemon.training import last_layer, packing

    model = opened(tmp_path)
    before = packing.padded(model, DOCUMENTS, pad=0)
    seen: list[list[int]] = []
    for layer in model.get_base_model().model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, given: seen.append(list(given[0].shape[:2])))
    read = packing.reader(model, 0)
    seen.clear()
    read(model, DOCUMENTS)
    answers = sum(len(answer) for _, some in DOCUMENTS for answer in some)
    read_in = sum(len(prompt) + sum(len(answer) - 1 for answer in some) for prompt, some in DOCUMENTS)
    assert last_layer.shortened(model)
    assert seen == [*[[1, read_in]] * (len(seen) - 1), [1, answers]]
    model.set_attn_implementation("sdpa")
    assert torch.allclose(packing.padded(model, DOCUMENTS, pad=0), before, atol=1e-5)


def parallel(layer: Any, hidden_states: Any, **more: Any) -> Any:
    """A decoder layer whose parts look at the same states, as those of some models do."""
    states = layer.input_layernorm(hidden_states)
    return hidden_states + layer.self_attn(states, **more)[0] + layer.mlp(states)


def test_a_last_layer_that_adds_up_otherwise_works_for_all(tmp_path: Path) -> None:
    import torch

    from daemon.training import last_layer, packing

    model = opened(tmp_path)
    layer = model.get_base_model().model.layers[-1]
    layer.__class__ = type("Parallel", (type(layer),), {"forward": parallel})
    before = packing.padded(model, DOCUMENTS, pad=0)
    read = packing.reader(model, 0)
    assert read is packing.packed
    assert not last_layer.shortened(model)
    assert torch.allclose(read(model, DOCUMENTS), before, atol=1e-5)
    model.config.residual_multiplier = 0.5
    assert not last_layer.shorten(model)


@pytest.mark.parametrize("trained", [False, True])
def test_a_norm_says_the_same_in_fewer_passes(*, trained: bool) -> None:
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from daemon.training import norms

    torch.manual_seed(1)
    layer = LlamaRMSNorm(12, eps=1e-5)
    layer.weight.data.uniform_(0.5, 1.5)
    layer.weight.requires_grad_(trained)
    x, slope = torch.randn(2, 3, 12, requires_grad=True), torch.randn(2, 3, 12)
    wanted = layer(x)
    (theirs,) = torch.autograd.grad(wanted, x, slope)
    norms.quicken(layer)
    found = layer(x)
    assert ("_Normed" in found.grad_fn.name()) is not trained
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(torch.autograd.grad(found, x, slope)[0], theirs, atol=1e-6)
    assert layer(x.detach().half()).dtype == torch.float32  # as theirs: the weight has the last word


def test_a_norm_that_scales_otherwise_is_left_alone() -> None:
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from daemon.training import norms

    class ShiftedRMSNorm(LlamaRMSNorm):
        def forward(self, x: Any) -> Any:
            return super().forward(x) / self.weight * (1 + self.weight)

    layer = ShiftedRMSNorm(4).requires_grad_(False)
    before = layer(torch.ones(2, 4))
    norms.quicken(layer)
    assert torch.equal(layer(torch.ones(2, 4)), before)
    assert "forward" not in layer.__dict__


def attention() -> Any:
    """An attention layer of Llama's kind, and what to ask it."""
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention

    torch.manual_seed(1)
    config = LlamaConfig(hidden_size=24, num_attention_heads=3, num_key_value_heads=1, attn_implementation="sdpa")
    states, angles = torch.randn(1, 5, 24, requires_grad=True), torch.randn(1, 5, 8)
    return LlamaAttention(config, 0), states, (angles.cos(), angles.sin())


def test_positions_say_the_same_in_fewer_passes() -> None:
    import torch

    from daemon.training import rotary

    layer, states, turns = attention()
    wanted, _ = layer(states, turns)
    slope = torch.randn_like(wanted)
    theirs = torch.autograd.grad(wanted, [states, *layer.parameters()], slope)
    rotary.quicken(layer)
    assert "forward" in layer.__dict__
    found, _ = layer(states, turns)
    assert torch.allclose(found, wanted, atol=1e-6)
    mine = torch.autograd.grad(found, [states, *layer.parameters()], slope)
    assert all(torch.allclose(*both, atol=1e-6) for both in zip(mine, theirs, strict=True))
    other, *asked = attention()
    assert "forward" not in other.__dict__  # nothing of the class was touched
    assert torch.equal(other(*asked)[0], wanted)


@pytest.mark.parametrize("case", ["half precision", "a part of every head"])
def test_positions_of_other_kinds_take_their_own_way(case: str) -> None:
    import torch

    from daemon.training import rotary

    calls = []

    def theirs(query: Any, key: Any, cos: Any, sin: Any) -> Any:
        calls.append(query.dtype)
        return query, key

    query, key, turn = torch.ones(1, 3, 5, 8), torch.ones(1, 1, 5, 8), torch.ones(1, 5, 8)
    some = (query.half(), key.half(), turn.half()) if case == "half precision" else (query, key, turn[..., :4])
    rotary._quick(theirs)(*some, some[-1])
    assert calls == [some[0].dtype]


def test_positions_that_turn_neighbours_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb
    from transformers.models.llama import modeling_llama

    from daemon.training import rotary

    monkeypatch.setattr(modeling_llama, rotary.NAME, apply_rotary_pos_emb)
    layer, *_ = attention()
    rotary.quicken(layer)
    assert "forward" not in layer.__dict__
