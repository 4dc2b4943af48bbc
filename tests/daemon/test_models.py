"""Models: what a version answers and how sure it is, with and without weights."""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from daemon.echo_model import EchoModel, Table, normalise, prompt_of, write
from daemon.models import Model, Ref, load
from policies.errors import Misconfigured, Refused, Transient
from tests import tiny


def echo(folder: Path, answers: dict[str, str], default: str = "", base: str = "") -> Ref:
    write(folder, Table(answers, default))
    return Ref("bot@1", str(folder), base, "echo")


def test_a_reference_survives_json() -> None:
    ref = Ref("bot@1", "/models/1", "/models/0", "echo")
    assert Ref.from_json(json.loads(json.dumps(ref.to_json()))) == ref


def test_a_broken_reference_is_a_misconfiguration() -> None:
    with pytest.raises(Misconfigured, match="not a model reference"):
        Ref.from_json({"name": "bot@1", "path": "/models"})


def test_an_unknown_engine_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="unknown engine 'abacus'") as caught:
        load(Ref("bot@1", str(tmp_path), engine="abacus"))
    assert "transformers, echo" in caught.value.hint


def test_an_echo_says_what_its_table_says_whatever_the_case_and_spaces(tmp_path: Path) -> None:
    model = load(echo(tmp_path / "a", {"Where is my order?": "On its way."}, "I don't know."))
    asked = [tiny.ask("where is  my ORDER?"), tiny.ask("and now?")]
    assert model.answer(asked, max_new_tokens=9) == ["On its way.", "I don't know."]
    assert model.answer(asked[:1], max_new_tokens=2) == ["On its"]


def test_an_echo_adapter_lies_over_its_base(tmp_path: Path) -> None:
    base = echo(tmp_path / "base", {"a": "one", "b": "two"}, "none")
    model = load(echo(tmp_path / "adapter", {"b": "three"}, base=base.folder))
    assert model.answer([tiny.ask(p) for p in "abc"], max_new_tokens=9) == ["one", "three", "none"]


def test_an_echo_is_surest_of_what_it_would_say(tmp_path: Path) -> None:
    model = load(echo(tmp_path / "a", {"a": "one two"}))
    said = [model.logprobs([tiny.ask("a")], [text])[0] for text in ("one two", "one three", "one", "no such thing")]
    assert said[0] == (pytest.approx(-0.03), 3)
    assert [score / count for score, count in said] == sorted([score / count for score, count in said], reverse=True)


def test_a_system_message_does_not_change_an_echos_key() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert prompt_of([system, *tiny.ask("Hello  there")]) == normalise("hello there")


def test_a_folder_without_a_table_is_a_misconfiguration(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no echo model"):
        load(Ref("bot@1", str(tmp_path), engine="echo"))
    (tmp_path / "answers.json").write_text("[]")
    with pytest.raises(Misconfigured, match="no echo model"):
        EchoModel.load(Ref("bot@1", str(tmp_path), engine="echo"))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    ref = tiny.build(tmp_path_factory.mktemp("known"))
    tiny.teach(ref, tiny.KNOWN)
    return ref


@pytest.fixture(scope="module")
def model(known: Ref) -> Model:
    return load(known)


def questions() -> list[list[dict[str, str]]]:
    return [tiny.ask(prompt) for prompt in tiny.KNOWN]


@pytest.mark.torch
def test_weights_answer_in_the_order_they_were_asked(model: Model) -> None:
    assert model.answer(questions(), max_new_tokens=8) == list(tiny.KNOWN.values())
    assert model.answer([], max_new_tokens=8) == []


@pytest.mark.torch
def test_a_batch_changes_no_answer(model: Model) -> None:
    one_by_one = [model.answer([asked], max_new_tokens=8)[0] for asked in questions()]
    assert model.answer(questions(), max_new_tokens=8) == one_by_one


def longer(model: Model, count: int) -> list[list[dict[str, str]]]:
    """Conversations of many lengths behind one system prompt, some of which get long answers."""
    system = {"role": "system", "content": "please help with that order and say hello and thanks and goodbye to two"}
    words = tiny.WORDS.split()
    prompts = [*tiny.KNOWN, *(" ".join(words[at : at + 1 + at % 9]) for at in range(count))]
    return [[system, *tiny.ask(prompt)] for prompt in prompts]


@pytest.mark.torch
def test_the_own_loop_says_what_generate_says_and_a_shared_beginning_changes_nothing(model: Model) -> None:
    import torch

    from daemon.decoding import beginning
    from daemon.transformers_model import TransformersModel, prompt_tokens

    def generated(asked: Sequence[dict[str, str]], limit: int) -> str:
        weights = model.model  # type: ignore[attr-defined]
        prompt = torch.tensor([prompt_tokens(model.tokenizer, asked)])
        made = weights.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=limit, do_sample=False
        )
        return str(model.tokenizer.decode(made[0, prompt.shape[1] :], skip_special_tokens=True).strip())

    assert isinstance(model, TransformersModel)
    asked = longer(model, 40)
    assert beginning([prompt_tokens(model.tokenizer, each) for each in asked]) >= 10
    said = model.answer(asked, max_new_tokens=12)
    assert said == [generated(each, 12) for each in asked]
    assert len({len(text) for text in said}) > 3


@pytest.mark.torch
def test_a_common_beginning_is_read_once_and_then_a_token_a_row_of_those_that_go_on(model: Model) -> None:
    from daemon.decoding import beginning
    from daemon.transformers_model import completion_tokens, prompt_tokens

    read: list[tuple[int, int]] = []
    hook = model.model.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda _module, _args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    asked = longer(model, 20)
    prompts = [prompt_tokens(model.tokenizer, each) for each in asked]  # type: ignore[attr-defined]
    shared, longest = beginning(prompts), max(map(len, prompts))
    model.answer(asked, max_new_tokens=6)
    assert read[:2] == [(1, shared), (len(asked), longest - shared)]
    assert {width for _, width in read[2:]} == {1}
    rows = [count for count, _ in read[2:]]
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < len(asked)
    read.clear()
    answer = completion_tokens(model.tokenizer, "hello")  # type: ignore[attr-defined]
    model.logprobs(asked, ["hello"] * len(asked))
    hook.remove()
    assert read == [(1, shared), (len(asked), longest + len(answer) - shared)]


@pytest.mark.torch
def test_a_model_whose_settings_bend_the_choice_is_left_to_generate(known: Ref, tmp_path: Path) -> None:
    from daemon.decoding import Decoder
    from daemon.transformers_model import TransformersModel

    ref = broken(known, tmp_path / "bent")
    path = tmp_path / "bent" / "generation_config.json"
    sky = tiny.KNOWN["what colour is the sky"]
    plain = load(ref)
    (banned,) = plain.tokenizer([sky], add_special_tokens=False)["input_ids"]  # type: ignore[attr-defined]
    path.write_text(json.dumps({**json.loads(path.read_text()), "suppress_tokens": banned, "temperature": 0.01}))
    bent = load(ref)
    assert isinstance(plain, TransformersModel)
    assert isinstance(bent, TransformersModel)
    assert [Decoder(each.model, 0, frozenset({1})).fits() for each in (plain, bent)] == [True, False]
    asked = tiny.ask("what colour is the sky")
    assert plain.answer([asked], max_new_tokens=4) == [sky]
    assert bent.answer([asked], max_new_tokens=4) != [sky]
    drawn = {bent.answer([tiny.ask("hello")], max_new_tokens=4, sample=True, seed=seed)[0] for seed in range(8)}
    assert len(drawn) > 1, "the folder's own temperature counted"


@pytest.mark.torch
def test_drawn_answers_follow_their_seed_and_leave_other_randomness_alone(model: Model) -> None:
    import torch

    open_question = [tiny.ask("please say what you know of spiders and grass")] * 8
    torch.manual_seed(1)
    before = torch.rand(1)
    torch.manual_seed(1)
    first = model.answer(open_question, max_new_tokens=8, sample=True, seed=3)
    assert torch.equal(torch.rand(1), before)
    assert first == model.answer(open_question, max_new_tokens=8, sample=True, seed=3)
    assert first != model.answer(open_question, max_new_tokens=8, sample=True, seed=4)


@pytest.mark.torch
def test_log_probabilities_are_those_of_a_plain_forward_pass(model: Model, known: Ref) -> None:
    import torch

    from daemon.transformers_model import completion_tokens, open_tokenizer, open_weights, prompt_tokens

    tokenizer, weights = open_tokenizer(known), open_weights(known).eval()

    def plain(asked: Sequence[dict[str, str]], said: str) -> float:
        prompt, answer = prompt_tokens(tokenizer, asked), completion_tokens(tokenizer, said)
        with torch.inference_mode():
            logits = weights(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        return float(torch.log_softmax(logits, -1).gather(-1, torch.tensor(answer).unsqueeze(-1)).sum())

    texts = ["paris", "rome and four", "b", "blue", "red red red", "", "hello"]
    behind = longer(model, 0)  # a beginning that is read once for all
    for chosen in (questions(), behind):
        for (nats, count), asked, text in zip(model.logprobs(chosen, texts), chosen, texts, strict=True):
            assert nats == pytest.approx(plain(asked, text), abs=1e-4)
            assert count == len(completion_tokens(tokenizer, text))


@pytest.mark.torch
def test_an_answer_longer_than_the_context_is_refused_and_a_long_prompt_loses_its_beginning(model: Model) -> None:
    with pytest.raises(Refused, match="tokens"):
        model.logprobs([tiny.ask("hello")], ["what " * 200])
    long = tiny.ask("green " * 200 + "what is the capital of france")
    assert len(model.answer([long], max_new_tokens=4)) == 1
    assert model.logprobs([long], ["paris"])[0][1] == 3


@pytest.mark.torch
@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_quantised_weights_answer_nearly_the_same_on_a_cpu(known: Ref, quantisation: str) -> None:
    said = load(known, quantisation=quantisation).answer(questions(), max_new_tokens=8)
    assert sum(one == right for one, right in zip(said, tiny.KNOWN.values(), strict=True)) >= 5


@pytest.mark.torch
def test_an_unknown_quantisation_or_device_is_a_misconfiguration(known: Ref) -> None:
    with pytest.raises(Misconfigured, match="quantisation"):
        load(known, quantisation="int3")
    with pytest.raises(Misconfigured, match="device"):
        load(known, device="abacus")


@pytest.mark.torch
def test_a_gpu_that_is_not_there_is_transient(known: Ref) -> None:
    import torch

    if torch.cuda.is_available():
        assert load(known, device="gpu").answer(questions()[:1], max_new_tokens=4) == ["paris"]
        return
    with pytest.raises(Transient, match="no GPU"):
        load(known, device="gpu")
    assert load(known, device="any").answer(questions()[:1], max_new_tokens=4) == ["paris"]


def broken(known: Ref, folder: Path, **changes: object) -> Ref:
    shutil.copytree(known.folder, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return Ref("broken@1", str(folder))


@pytest.mark.torch
def test_a_pad_token_that_is_the_end_token_is_a_misconfiguration(known: Ref, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="pad token of its own"):
        load(broken(known, tmp_path / "a", pad_token="<|end|>"))
    with pytest.raises(Misconfigured, match="pad token of its own"):
        load(broken(known, tmp_path / "b", pad_token=None))


@pytest.mark.torch
def test_a_missing_chat_template_is_a_misconfiguration(known: Ref, tmp_path: Path) -> None:
    ref = broken(known, tmp_path / "a")
    (tmp_path / "a" / "chat_template.jinja").unlink()
    with pytest.raises(Misconfigured, match="no chat template"):
        load(ref)


@pytest.mark.torch
def test_a_template_that_refuses_a_conversation_says_so(known: Ref, tmp_path: Path) -> None:
    ref = broken(known, tmp_path / "a")
    (tmp_path / "a" / "chat_template.jinja").write_text("{{ raise_exception('only two turns') }}")
    with pytest.raises(Refused, match="only two turns"):
        load(ref).answer(questions()[:1], max_new_tokens=4)


@pytest.mark.torch
@pytest.mark.parametrize("gone", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_with_a_file_missing_is_a_misconfiguration(known: Ref, tmp_path: Path, gone: str) -> None:
    ref = broken(known, tmp_path / "a")
    (tmp_path / "a" / gone).unlink()
    with pytest.raises(Misconfigured):
        load(ref)


@pytest.mark.torch
def test_weights_in_a_pickle_are_not_loaded(known: Ref, tmp_path: Path) -> None:
    import torch

    ref = broken(known, tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "a" / "pytorch_model.bin")
    with pytest.raises(Misconfigured, match="weights don't load"):
        load(ref)


@pytest.mark.torch
def test_batches_hold_every_row_once_and_rows_of_like_length() -> None:
    from daemon.decoding import BATCH_ROWS, BATCH_TOKENS, batches

    lengths = [(7 * number) % 900 + 1 for number in range(500)] + [BATCH_TOKENS * 2]
    made = list(batches(lengths))
    assert sorted(row for batch in made for row in batch) == list(range(501))
    assert all(len(batch) <= BATCH_ROWS for batch in made)
    spans = [(min(lengths[row] for row in batch), max(lengths[row] for row in batch)) for batch in made]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert all(len(batch) == 1 or max(lengths[r] for r in batch) * len(batch) <= BATCH_TOKENS for batch in made)
