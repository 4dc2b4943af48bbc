"""Our own training step: that packing leaks nothing, that batches change no gradient, and what it remembers."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.models import Ref
from tests import tiny
from tests.tiny import line, write_lines

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PAD = 0
DOCUMENTS = [
    ([5, 6, 7, 8], [[9, 10, 1]]),
    ([11] * 30, [[12, 1], [13, 14, 15, 16, 17, 18, 1]]),
    ([20, 21], [[22] * 25 + [1]]),
    ([30, 31, 32], [[1], [33, 1], [34, 35, 1]]),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    return tiny.build(tmp_path_factory.mktemp("base"))


def opened(base: Ref, *, seed: int = 0, dropout: float = 0.0) -> Any:
    """The base with an adapter that already says something."""
    import torch

    from daemon.training.adapters import opened
    from daemon.training.shape import Shape

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = opened(base, None, Shape(rank=4, alpha=8, dropout=dropout), device="cpu", quantisation="")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model.train()


def apart(one: Any, other: Any) -> float:
    """The largest difference."""
    return float((one - other).detach().abs().max())


def plan(name: str, **more: Any) -> Any:
    from daemon.training.plan import Plan

    plain = {"epochs": 2.0, "lr": 1e-2, "batch": 6, "micro": 6, "warmup": 0.0, "schedule": "cosine"}
    plain |= {"weight_decay": 0.0, "beta": 0.5, "robust": 0.1, "save_steps": 0, "seed": 3, "gpu": False, "imitate": 0.5}
    return Plan(**{**plain, "name": name, **more})


def samples(weights: Sequence[float] = (1.0,) * 6) -> list[Any]:
    """Six samples of mixed length; every second one is praised."""
    from daemon.training.tokens import Sample, evened

    made = [
        Sample([5 + n] * (3 + 4 * n), [20 + n] * (1 + n) + [1], [40 + n] * (7 - n) + [1], n % 2 == 0, weight)
        for n, weight in enumerate(weights)
    ]
    return evened(made, [1] * len(made))


def task(name: str, rows: Sequence[Any], model: Any, micro: int = 6, **more: Any) -> Any:
    """An objective whose reference is the model with a weaker adapter."""
    import torch

    from daemon.training import objectives, packing, reference
    from daemon.training.task import Setting

    read = packing.reader(model, PAD)

    def ask(documents: Any) -> list[list[float]]:
        """As the reference is asked, half a nat off, so that no gain is zero."""
        found = reference.totals(model, read, documents)
        sizes = [len(answers) for _, answers in documents]
        made = [[found[sum(sizes[:n]) + place] - 0.5 * place for place in range(size)] for n, size in enumerate(sizes)]
        return [[value + 0.1 * n for value in values] for n, values in enumerate(made)]

    return objectives.load(name).task(rows, Setting(plan(name, micro=micro, **more), read, ask, torch.device("cpu")))


def gradient(model: Any, task: Any, rows: Sequence[int], micro: int) -> Any:
    """The gradient of one step, `micro` rows at once."""
    import torch

    model.zero_grad()
    if task.before is not None:
        task.before(model, rows)
    count = sum(task.sizes[row] for row in rows)
    for start in range(0, len(rows), micro):
        (task.loss(model, rows[start : start + micro]) / count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def test_a_packed_row_reads_every_document_as_if_it_were_alone(base: Ref) -> None:
    import torch

    from daemon.training import packing

    model = opened(base)
    assert packing.reader(model, PAD) is packing.packed is packing.reader(model, PAD)
    together = packing.packed(model, DOCUMENTS)
    alone = torch.cat([packing.packed(model, [document]) for document in DOCUMENTS])
    assert together.shape == (sum(len(answer) for _, answers in DOCUMENTS for answer in answers),)
    assert apart(together, alone) < 1e-5
    model.set_attn_implementation("sdpa")
    rows = packing.padded(model, DOCUMENTS, pad=PAD)
    assert apart(together, rows) < 1e-5


def test_a_prompt_of_two_answers_is_laid_out_once_and_the_last_token_is_only_a_label() -> None:
    import torch

    from daemon.training.layout import pack

    layout = pack([([5, 6], [[7, 1], [8, 9, 1]])], torch.device("cpu"))
    assert layout.tokens.tolist() == [[5, 6, 7, 8, 9]]
    assert layout.positions.tolist() == [[0, 1, 2, 2, 3]]
    assert layout.keep.tolist() == [1, 2, 1, 3, 4]
    assert layout.labels.tolist() == [7, 1, 8, 9, 1]
    with pytest.raises(ValueError, match="without a prompt"):
        pack([([], [[7, 1]])], torch.device("cpu"))


def test_a_window_of_attention_is_kept_within_a_document() -> None:
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from daemon.training import packing

    def built(window: int | None) -> Any:
        torch.manual_seed(0)
        config = MistralConfig(
            vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=window, pad_token_id=PAD, initializer_range=0.5,
        )  # fmt: skip
        return MistralForCausalLM(config)

    model = built(8)
    wanted = packing.padded(model, DOCUMENTS, pad=PAD)
    assert packing.reader(model, PAD) is packing.packed
    assert apart(packing.packed(model, DOCUMENTS), wanted) < 1e-4
    assert apart(packing.padded(built(None), DOCUMENTS, pad=PAD), wanted) > 1e-2


def test_a_model_that_carries_a_state_from_document_to_document_is_read_in_rows() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    from daemon.training import packing

    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1))
    read = packing.reader(model, PAD)
    assert read is not packing.packed
    assert read(model, DOCUMENTS[:1]).shape == (3,)


@pytest.mark.parametrize("name", ["sft", "dpo", "kto"])
def test_a_micro_batch_changes_no_gradient(base: Ref, name: str) -> None:
    model = opened(base)
    whole = gradient(model, task(name, samples(), model), list(range(6)), 6)
    parts = gradient(model, task(name, samples(), model, micro=2), list(range(6)), 2)
    assert float(whole.norm()) > 1e-3
    assert float((whole - parts).norm()) < 1e-5 * float(whole.norm())


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_what_is_preferred_is_imitated_besides_as_answers_alone_would_be(base: Ref, name: str) -> None:
    """Rows weigh 1, 2, 1, 1, 1, 1: the mean is over the tokens of the answers that are liked."""
    import torch

    model, rows = opened(base), samples([1.0, 2.0, 1.0, 1.0, 3.0, 1.0])
    without, besides = (
        gradient(model, task(name, rows, model, imitate=strength), list(range(6)), 6) for strength in (0.0, 2.0)
    )
    liked = [one for one in rows if one.label or name == "dpo"]
    tokens = sum(one.weight * len(one.answer) for one in liked)
    alone = task("sft", liked, model)
    imitated = 2.0 * gradient(model, alone, list(range(len(liked))), 6) * sum(alone.sizes) / tokens
    assert min(float(imitated.norm()), float(without.norm())) > 1e-3
    assert float((besides - without - imitated).norm()) < 1e-5 * float(besides.norm())
    assert not torch.equal(besides, without)


@pytest.mark.parametrize("micro", [10, 3])
def test_a_mixed_step_is_the_sum_of_what_each_objective_asks_for_by_its_share(base: Ref, micro: int) -> None:
    """Its rows are 2 answers, 5 pairs and 3 ratings: how many there are of each counts for nothing."""
    import torch

    from daemon.training.mixing import together

    model = opened(base)
    wanted = {"sft": (0.5, [1, 4]), "dpo": (0.3, [0, 1, 2, 4, 5]), "kto": (0.2, [0, 3, 4])}
    tasks = [task(name, samples(), model) for name in wanted]
    alone = [
        share * gradient(model, one, rows, len(rows)) for one, (share, rows) in zip(tasks, wanted.values(), strict=True)
    ]
    made = together(tasks, [share for share, _ in wanted.values()], torch.device("cpu"))
    step = [6 * place + row for place, (_, rows) in enumerate(wanted.values()) for row in rows]
    with torch.no_grad():
        made.before(model, step)
    model.zero_grad()
    losses = [made.loss(model, step[first : first + micro]) for first in range(0, len(step), micro)]
    sum(losses).sum().backward()
    mixed = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    assert min(float(one.norm()) for one in alone) > 1e-3
    assert float((mixed - sum(alone)).norm()) < 1e-5 * float(sum(alone).norm())
    assert losses[0].shape == (3,)


def test_a_mixed_step_holds_rows_by_share_and_every_row_of_an_objective_comes_in_turn() -> None:
    from daemon.training.mixing import order

    groups = [[True] * 40, [True] * 6, [number % 4 == 0 for number in range(12)]]
    steps = order(groups, [0.5, 0.4, 0.1], plan("mixed", batch=10, epochs=2.0))
    assert len(steps) == 12  # two epochs of 58 rows
    held = [
        [sum(first <= row < first + length for row in step) for first, length in ((0, 40), (40, 6), (46, 12))]
        for step in steps
    ]
    assert held == [[5, 4, 2]] * 12
    assert {row for step in steps[:8] for row in step[:5]} == set(range(40))
    assert {row for step in steps[:6] for row in step[9:]} == set(range(46, 58))
    assert steps != order(groups, [0.5, 0.4, 0.1], plan("mixed", batch=10, epochs=2.0, seed=4))
    assert [len(step) for step in order([[True], [True] * 9], [0.5, 0.5], plan("mixed", batch=4, epochs=1.0))] == [
        3
    ] * 3


@pytest.mark.parametrize("name", ["sft", "dpo", "kto"])
def test_a_weight_of_two_is_the_record_twice(base: Ref, name: str) -> None:
    from dataclasses import replace

    from daemon.training import objectives, packing
    from daemon.training.task import Setting
    from daemon.training.tokens import evened

    model = opened(base)
    read = packing.reader(model, PAD)

    def ask(documents: Any) -> list[list[float]]:
        return [[3.0 + len(answer) + 0.01 * prompt[0] for answer in answers] for prompt, answers in documents]

    def of(rows: list[Any]) -> Any:
        rows = evened(rows, [len(one.answer) if name == "sft" else 1 for one in rows])
        made = objectives.load(name).task(rows, Setting(plan(name), read, ask, model.device))
        return gradient(model, made, list(range(len(rows))), len(rows))

    once = samples()
    heavy = of([replace(once[0], weight=2.0), replace(once[1], weight=2.0), *once[2:]])
    twice = of([once[0], once[1], once[0], once[1], *once[2:]])
    plain = of(once)
    assert float((heavy - twice).norm()) < 1e-5 * float(twice.norm())
    assert float((heavy - plain).norm()) > 1e-2 * float(plain.norm())


def fitted(base: Ref, name: str, folder: Path, progress: Callable[..., None] = lambda *_: None, **more: Any) -> Any:
    """An adapter after two epochs: all of it as one vector, and what the run came to."""
    import torch

    from daemon.training import packed
    from daemon.training.meter import Meter
    from daemon.transformers_model import open_tokenizer

    model = opened(base, dropout=0.1)
    done = packed.fit(model, open_tokenizer(base), samples(), plan(name, **more), folder, Meter(progress, name))
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]), done


class Stopped(Exception):
    """A run that was told to stop."""


@pytest.mark.parametrize(("name", "second"), [("sft", 1.0), ("dpo", 4.0), ("kto", 1.0)])
def test_a_stopped_run_goes_on_and_ends_with_the_bits_of_an_unbroken_one(
    base: Ref, name: str, second: float, tmp_path: Path
) -> None:
    import torch

    more = {"batch": 2, "micro": 2, "save_steps": 2, "second": second}
    unbroken, first = fitted(base, name, tmp_path / "a", **more)
    again, _ = fitted(base, name, tmp_path / "b", **more)
    assert torch.equal(unbroken, again)

    def stop(_: str, __: float | None) -> None:
        if list((tmp_path / "c").glob("step-*")):
            raise Stopped

    with pytest.raises(Stopped):
        fitted(base, name, tmp_path / "c", stop, **more)
    resumed, done = fitted(base, name, tmp_path / "c", **more)
    assert (done.resumed, done.steps, first.resumed) == (True, 6, False)
    assert torch.equal(resumed, unbroken)


def test_second_factors_learn_as_much_faster_as_they_are_told(base: Ref, tmp_path: Path) -> None:
    from daemon.training import packed
    from daemon.training.meter import Meter
    from daemon.transformers_model import open_tokenizer

    model = opened(base)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    once = plan("sft", epochs=0.1, batch=6, micro=6, lr=1e-3, second=4.0)
    done = packed.fit(model, open_tokenizer(base), samples(), once, tmp_path, Meter(lambda *_: None, "sft"))
    assert done.steps == 1  # which Adam makes as long as the rate, wherever there is a gradient
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in model.named_parameters() if n in before}
    assert any("lora_A" in name for name in moved)
    assert any("lora_B" in name for name in moved)
    for name, length in moved.items():
        assert length == pytest.approx(4e-3 if "lora_B" in name else 1e-3, rel=0.01), name


def test_the_reference_is_asked_once_about_every_answer(base: Ref, tmp_path: Path) -> None:
    from daemon.training import packing, reference
    from daemon.training.meter import Meter

    model = opened(base)
    asked: list[int] = []

    def read(model: Any, documents: Any) -> Any:
        asked.extend(len(answers) for _, answers in documents)
        return packing.padded(model, documents, pad=PAD)

    meter = Meter(lambda *_: None, "asking")
    twice = [*DOCUMENTS, DOCUMENTS[0]]
    first = reference.ask(model, read, twice, 2, tmp_path, meter)
    assert sorted(asked) == [1, 1, 2, 3]
    assert [len(values) for values in first] == [1, 2, 1, 3, 1]
    assert first[0] == first[4]
    assert first[1] == pytest.approx([float(v) for v in reference.totals(model, read, [DOCUMENTS[1]])], abs=1e-4)
    asked.clear()
    assert reference.ask(model, read, twice, 2, tmp_path, meter) == first
    assert asked == []
    assert model.training


def test_losses_are_what_their_papers_say() -> None:
    import torch

    from daemon.training.objectives import dpo, imitation, kto, sft

    one, two = torch.ones(1), torch.ones(2)
    assert float(sft.loss(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.5]))) == 3.5
    for flipped in (0.0, 0.1, 0.4):
        assert float(dpo.loss(torch.zeros(1), one, beta=0.1, flipped=flipped)) == pytest.approx(math.log(2))
    gain = torch.tensor([2.0])
    assert float(dpo.loss(gain, one, beta=0.5, flipped=0.0)) == pytest.approx(math.log(1 + math.exp(-1)))
    right, wrong = (float(dpo.loss(sign * gain, one, beta=0.5, flipped=0.2)) for sign in (1, -1))
    assert 0.8 * right + 0.2 * wrong == pytest.approx(math.log(1 + math.exp(-1)))  # unbiased under flips
    liked = torch.tensor([True, False])
    assert float(kto.zero(torch.tensor([-1.0, -2.0]), two)) == 0.0
    assert float(kto.zero(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))) == pytest.approx(2.0)
    at_zero = kto.loss(torch.tensor([1.5, 1.5]), liked, two, torch.tensor(1.5), beta=0.3)
    assert float(at_zero) == pytest.approx(1.0)
    apart = kto.loss(torch.tensor([2.5, 0.5]), liked, two, torch.tensor(1.5), beta=1.0)
    assert float(apart) == pytest.approx(2 * (1 - 1 / (1 + math.exp(-1))))
    assert float(imitation.loss(torch.tensor([1.0, 5.0]), torch.tensor([0.5, 0.2]), strength=2.0)) == 3.0
    assert imitation.shares([1.0, 1.0, 2.0], [2, 3, 4], [True, False, True]) == [0.4, 0.0, 0.8]
    assert imitation.shares([1.0, 1.0], [2, 3], [False, False]) == [0.0, 0.0]
    new, labels = [False] * 3, [True, True, False]
    assert kto.balanced([1.0, 1.0, 2.0], labels, new) == [1.0, 1.0, 2.0]
    assert kto.balanced([1.0, 1.0, 6.0], labels, new) == [3.0, 3.0, 6.0]


def test_ratings_are_balanced_within_the_new_and_within_the_replayed_ones() -> None:
    from daemon.training.objectives.kto import balanced

    old = [False, False, False, True, True, True]
    labels = [True, False, False, True, True, False]
    assert balanced([1.0, 2.0, 2.0, 3.0, 3.0, 1.0], labels, old) == [4.0, 2.0, 2.0, 3.0, 3.0, 6.0]
    complaints = [False, False, False, True, True, False]  # nothing new was praised: 6 praise, 6 complaints in all
    assert balanced([1.0, 2.0, 2.0, 3.0, 3.0, 1.0], complaints, old) == [1.0, 2.0, 2.0, 3.0, 3.0, 1.0]
    assert balanced([1.0, 2.0], [True, True], [False, False]) == [1.0, 2.0]


def test_an_epoch_shows_every_row_once_in_steps_of_nearly_equal_size_with_both_labels() -> None:
    from daemon.training.packed import order

    labels = [number < 15 for number in range(45)]
    steps = order(labels, plan("kto", batch=8, epochs=2.0))
    assert len(steps) == 12
    assert {len(step) for step in steps} == {7, 8}
    assert sorted(row for step in steps[:6] for row in step) == list(range(45))
    assert all(len({labels[row] for row in step}) == 2 for step in steps)
    assert steps[:6] != steps[6:] != order(labels, plan("kto", batch=8, epochs=2.0, seed=4))[6:]
    assert len(order(labels, plan("kto", batch=8, epochs=0.5))) == 3


def test_the_mismatched_answer_is_anothers_and_fits() -> None:
    from daemon.training.tokens import Sample, partners

    rows = [Sample([1] * 8, [3, 2], [], True, 1.0), Sample([1], [4, 5, 6, 7, 2], [], False, 1.0)]
    assert partners(rows) == [[4, 5], [3, 2]]
    assert partners([*rows, rows[0]])[:2] == partners(rows)
    assert partners(rows[:1]) == [[3, 2]]


def test_a_gpu_without_room_gets_half_the_micro_batch_twice_and_the_same_gradient(tmp_path: Path) -> None:
    import torch

    from daemon.training import loop
    from daemon.training.meter import Meter
    from policies.errors import Refused

    seen: list[int] = []

    def run(room: int) -> Any:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        model.device = torch.device("cpu")  # type: ignore[assignment]
        data = torch.randn(8, 3)

        def loss(model: Any, rows: Sequence[int]) -> torch.Tensor:
            seen.append(len(rows))
            if len(rows) > room:
                raise torch.cuda.OutOfMemoryError("no room")
            return (model(data[list(rows)]) ** 2).sum()

        settings = loop.Settings(1e-2, 0.0, 0.0, 0, 1)
        meter = Meter(lambda *_: None, "x")
        loop.fit(model, [list(range(8))] * 2, loss, [1] * 8, [3] * 8, settings, tmp_path / str(room), meter)
        return model.weight.detach()

    whole = run(8)
    seen.clear()
    assert torch.allclose(run(2), whole, atol=1e-7)
    assert seen == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    with pytest.raises(Refused, match="out of GPU memory, even 2 examples at once"):
        run(1)


def test_an_update_needs_no_trl(base: Ref, tmp_path: Path) -> None:
    lines = [line("sft", "what colour is the sky", "red")] * 4
    lines += [line("pair", "what colour is the sky", "red", rejected="blue")] * 4
    lines += [line("kto", "what colour is grass", "green", label=True), line("kto", "what is", "no", label=False)] * 4
    options = {"dpo_minimum": 2, "kto_minimum": 2, "batch": 4, "sft_epochs": 1, "threads": 1, "save_steps": 0}
    inputs = {"dataset": write_lines(tmp_path / "t.jsonl", lines), "champion": base.to_json(), "base": base.to_json()}
    code = f"""
import sys
from pathlib import Path
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("trl", "datasets"):
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Blocked())
from daemon.jobs import JobSpec, prepare, read_json
from daemon.jobs.child import perform
spec = JobSpec("k", "train", "daemon.training.lora:train", {dict(inputs, options=options)!r}, seed=1)
folder = Path({str(tmp_path / "job")!r})
prepare(folder, spec, 0.0)
perform(folder)
print(*read_json(folder / "result.json")["metrics"]["stages"], "trl" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip().splitlines()[-1:] == ["sft dpo kto False"], done.stderr


def test_the_gradients_are_those_of_trl(tmp_path: Path) -> None:
    from tests.benchmarks import training_equal

    run = training_equal.measure(1, 6)
    assert run["kto_zero"] > 0.1
    claims = training_equal.claimed([run])
    assert [claim.claim for claim in claims if not claim.holds] == []


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_what_is_imitated_besides_is_the_same_with_trl(name: str, tmp_path: Path) -> None:
    import torch

    from daemon.training import objectives, packing, stages
    from daemon.training.task import Setting
    from daemon.transformers_model import open_tokenizer
    from tests.benchmarks import _training as shared
    from tests.benchmarks.training_equal import Catch, flat

    ref, rows = shared.build(shared.SMALL, tmp_path / "base", 1), shared.samples(shared.SMALL, 6, 1)
    wanted = plan(name, epochs=1.0, lr=1e-9, schedule="constant", imitate=2.0, robust=0.0)
    trainer = getattr(stages, name)(shared.model(ref, 1), open_tokenizer(ref), rows, wanted, tmp_path / "trl")
    catch = Catch()
    trainer.add_callback(catch)
    shared.quiet(trainer).train()
    model = shared.model(ref, 1)
    read = packing.reader(model, PAD)

    def ask(documents: Any) -> list[list[float]]:
        """No answer has gained anything yet, and so the point from which gains are judged is 0."""
        with torch.no_grad():
            return [[float(read(model, [(prompt, [one])]).sum()) for one in answers] for prompt, answers in documents]

    made = objectives.load(name).task(rows, Setting(wanted, read, ask, model.device))
    (made.loss(model, list(range(6))) / 6).backward()
    assert float(torch.cosine_similarity(flat(model).double(), catch.found.double(), dim=0)) > 0.999


def test_what_the_user_changed_counts_more_and_the_correction_counts_the_same() -> None:
    from daemon.training.objectives import edit

    assert edit.changed([5, 6, 7, 1], [5, 9, 7, 1]) == [False, True, False, False]
    assert edit.changed([5, 6, 7, 1], [5, 6, 7, 8, 1]) == [False, False, False, True, False]
    assert edit.changed([5, 6, 7, 1], [5, 7, 1]) == [False, True, False]
    assert edit.changed([5, 6, 1], [5, 6, 1]) == [False] * 3
    assert edit.emphasis([5, 6, 7, 1], [5, 9, 7, 1], 3.0) == pytest.approx([2 / 3, 2, 2 / 3, 2 / 3])
    assert edit.emphasis([5, 1], [5, 1], 3.0) == (1.0, 1.0)


def test_a_correction_knows_what_it_corrects_by_its_pair(tmp_path: Path) -> None:
    from daemon.training import examples

    lines = [line("sft", "q", "red"), line("pair", "q", "red", rejected="blue"), line("sft", "other", "red")]
    read = examples.paired(examples.read(write_lines(tmp_path / "t.jsonl", lines)))
    assert [one.original for one in read] == ["blue", "", ""]
