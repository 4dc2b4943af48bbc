"""Tasks of the lm-evaluation-harness: local files in, one paired measurement a document out, and a gate that reads it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from daemon import ctl, evaluation, models, probes, starting
from daemon.config import usable_policy
from daemon.echo_model import Table, write
from daemon.jobs import Job
from daemon.models import Ref
from daemon.policyfile import canonical, load_policy, parse_policy
from daemon.probes import Probed, lm_eval
from policies import gates
from policies.errors import Misconfigured, Transient
from policies.model import Evidence, Measurement, Result, Verdict
from tests import tiny

pytestmark = pytest.mark.torch

CHOICE = """
task: choose
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{choices.index(answer)}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
SAY = """
include: beside/common.yaml
task: say
output_type: generate_until
doc_to_target: answer
generation_kwargs: {until: ["<|end|>"], max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
COMMON = """
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
doc_to_text: "{{question}}"
"""
WRONG = {**dict.fromkeys(tiny.KNOWN, "yes"), "what is the capital of france": "paris"}
ANCHOR = {
    "id": "a",
    "check": {"kind": "exact", "value": "paris"},
    "messages": tiny.ask("what is the capital of france"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tasks on the seven questions that the tiny model knows."""
    made = tmp_path / "tasks"
    (made / "beside").mkdir(parents=True)
    for name, text in (("choose", CHOICE), ("say", SAY), ("beside/common", COMMON)):
        (made / f"{name}.yaml").write_text(text, "utf-8")
    answers = [*sorted(set(tiny.KNOWN.values())), "yes"]
    docs = [{"question": asked, "choices": answers, "answer": answer} for asked, answer in tiny.KNOWN.items()]
    tiny.write_lines(made / "questions.jsonl", docs)
    return made


def taught(folder: Path, answers: dict[str, str], name: str) -> Ref:
    ref = tiny.build(folder, name=name)
    tiny.teach(ref, answers)
    return ref


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    return taught(tmp_path_factory.mktemp("right"), tiny.KNOWN, "bot@1")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    return taught(tmp_path_factory.mktemp("wrong"), WRONG, "bot@2")


def options(folder: Path, **more: Any) -> lm_eval.Options:
    return lm_eval.Options(**{"folder": folder, "tasks": ("choose", "say"), **more})


def measured(ref: Ref, given: lm_eval.Options) -> tuple[Probed, list[Measurement]]:
    version = Probed(ref, models.load(ref), 8, "here")
    items = [item for each in lm_eval.documents(given).values() for item in each]
    return version, lm_eval.measure(version, items, given)


def scores(found: Sequence[Measurement]) -> dict[str, list[float]]:
    told: dict[str, list[float]] = {}
    for each in found:
        told.setdefault(each.set.partition("@")[0], []).append(each.value)
    return told


def evaluated(folder: Path, champion: Ref, candidate: Ref, table: dict[str, Any], cache: Path | None = None) -> Path:
    """The folder of an evaluation on one anchor item, which both know, and on the tasks of `table`."""
    folder.mkdir()
    anchor = tiny.write_lines(folder / "anchor.jsonl", [ANCHOR])
    inputs = {
        "versions": {"candidate": candidate.to_json(), "champion": champion.to_json(), "anchor": None},
        "sets": [{"name": "basics", "role": "anchor", "path": anchor}],
        "options": {"lm_eval": table},
        "max_new_tokens": 6,
        "cache": str(cache) if cache else None,
    }
    evaluation.run(Job("k", "evaluate", inputs, 7, 0.0, folder))
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "measurements.jsonl").read_text("utf-8").splitlines()]


def verdict(folder: Path) -> Verdict:
    found = [Measurement(**{name: row[name] for name in Measurement.__slots__}) for row in rows(folder)]
    new, old = (Evidence(name, tuple(m for m in found if m.version == name)) for name in ("bot@2", "bot@1"))
    # One item proves no divergence: that budget is wide, so that the documents alone decide.
    policy = {"retention": gates.load("retention").Options(kl_budget=99.0)}
    (mine,) = (each for each in gates.judge_all(new, old, None, policy) if each.gate == "retention")
    return mine


def test_a_choice_and_a_generation_are_scored_document_by_document(folder: Path, right: Ref, wrong: Ref) -> None:
    version, found = measured(right, options(folder))
    assert scores(found) == {"choose": [1.0] * 7, "say": [1.0] * 7}
    assert {(each.probe, each.version, each.environment) for each in found} == {("lm_eval", "bot@1", "here")}
    names = [each.set for each in found[::7]]
    assert [version.said[name, "0"] for name in names] == ["paris", "paris"]
    assert [name.partition("@")[0] for name in names] == ["choose", "say"]
    worse, found = measured(wrong, options(folder))
    assert scores(found) == {"choose": [1.0] + [0.0] * 6, "say": [1.0] + [0.0] * 6}
    assert [worse.said[name, "1"] for name in names] == ["yes", "yes"]


def test_a_candidate_that_forgot_is_refused_because_of_the_tasks_alone(
    folder: Path, right: Ref, wrong: Ref, tmp_path: Path
) -> None:
    table = {"folder": str(folder), "tasks": ["choose", "say"]}
    without = evaluated(tmp_path / "without", right, wrong, {})
    assert not [claim for claim in verdict(without).claims if claim.name.startswith("slice")]
    assert not [claim for claim in verdict(without).claims if claim.result is Result.FAIL]
    refused = verdict(evaluated(tmp_path / "with", right, wrong, table))
    assert refused.result is Result.FAIL
    harmed = {claim.name.partition("@")[0] for claim in refused.claims if claim.result is Result.FAIL}
    assert harmed == {"margin on tasks", "slice choose", "slice say"}
    planned = {row["set"].partition("@")[0]: row["value"] for row in rows(tmp_path / "with") if row["probe"] == "plan"}
    assert planned["choose"] == planned["say"] == 7


def test_a_task_is_asked_again_only_when_its_files_have_changed(
    folder: Path, right: Ref, wrong: Ref, tmp_path: Path
) -> None:
    table, cache = {"folder": str(folder), "tasks": ["choose"]}, tmp_path / "cache"
    evaluated(tmp_path / "one", right, wrong, table, cache)
    swapped = Ref("bot@1", wrong.folder), Ref("bot@2", right.folder)  # the same names over other weights
    again = {(r["version"], r["set"], r["item"]): r["value"] for r in rows(tmp_path / "one") if "choose" in r["set"]}
    evaluated(tmp_path / "two", *swapped, table, cache)
    assert {
        (r["version"], r["set"], r["item"]): r["value"] for r in rows(tmp_path / "two") if "choose" in r["set"]
    } == again
    with (folder / "questions.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"question": "what colour is grass", "choices": ["blue", "green"], "answer": "green"}))
    evaluated(tmp_path / "three", *swapped, table, cache)
    third = [r for r in rows(tmp_path / "three") if r["set"].startswith("choose@") and r["probe"] == "lm_eval"]
    assert [r["value"] for r in third if r["version"] == "bot@1"][:7] == [1.0] + [0.0] * 6
    assert len(third) == 16
    assert {r["set"] for r in third}.isdisjoint({key[1] for key in again})


def test_an_adapter_is_measured_with_its_base(folder: Path, right: Ref, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from daemon.transformers_model import open_weights

    adapter: Any = get_peft_model(open_weights(right), LoraConfig(r=2, target_modules="all-linear"))
    adapter.save_pretrained(tmp_path / "adapter")
    _, found = measured(Ref("bot@3", str(tmp_path / "adapter"), base=right.folder), options(folder))
    assert scores(found) == {"choose": [1.0] * 7, "say": [1.0] * 7}


def test_examples_filters_functions_and_other_metrics_work_as_the_harness_has_them(folder: Path, right: Ref) -> None:
    more = "num_fewshot: 2\nfewshot_split: test\nprocess_docs: !function own.last_first\n"
    both = "[{metric: acc}, {metric: acc_norm, aggregation: mean, higher_is_better: true}]"
    plain = "[{metric: acc, aggregation: mean, higher_is_better: true}]"
    (folder / "choose.yaml").write_text(CHOICE.replace(plain, both) + more, "utf-8")
    (folder / "own.py").write_text("def last_first(docs):\n    return docs.select([6, 0, 2, 1])\n", "utf-8")
    filters = (
        "filter_list:\n  - {name: first, filter: [{function: regex, regex_pattern: '(pa)'}, {function: take_first}]}\n"
    )
    (folder / "say.yaml").write_text(SAY + filters + "  - {name: whole, filter: [{function: take_first}]}\n", "utf-8")
    _, found = measured(right, options(folder, metrics={"choose": "acc_norm"}, limit=3))
    told = scores(found)
    assert len(told["choose"]) == 3
    assert told["say"] == [0.0] * 3  # "pa" is what the first filter left of "paris"
    assert measured(right, options(folder, metrics={"choose": "acc_norm"}, limit=3))[1] == found


def test_without_the_chat_template_the_prompt_is_the_tasks_own_text(folder: Path, right: Ref) -> None:
    (folder / "choose.yaml").write_text(
        CHOICE.replace('"{{question}}"', '"<|user|>{{question}}<|end|><|assistant|>"') + 'target_delimiter: ""\n',
        "utf-8",
    )
    _, found = measured(right, options(folder, tasks=("choose",), chat=False))
    assert scores(found) == {"choose": [1.0] * 7}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("dataset_path: json", "dataset_path: allenai/ai2_arc", "would fetch its data"),
        ("test: questions.jsonl", "test: ../secrets.jsonl", "lies outside"),
        ("test: questions.jsonl", "test: gone.jsonl", "can't be used"),
        ("task: choose", "include: ../elsewhere.yaml", "lies outside"),
        ("task: choose", "task: [", "can't be used"),
        ("doc_to_choice", "doc_to_text: !function own.py.gone\ndoc_to_choice", "can't be used"),
    ],
)
def test_a_task_that_wants_the_network_or_makes_no_sense_is_refused(
    folder: Path, old: str, new: str, said: str
) -> None:
    (folder / "choose.yaml").write_text(CHOICE.replace(old, new), "utf-8")
    with pytest.raises(Misconfigured, match=said):
        lm_eval.documents(options(folder, tasks=("choose",)))


@pytest.mark.parametrize(
    ("metric", "more", "said"),
    [
        ("f1", "", "no metric 'f1'"),
        ("brier_score", "[{metric: brier_score, aggregation: brier_score, higher_is_better: false}]", "no metric"),
        (
            "mcc",
            "[{metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}]",
            "mcc .* is .* for a document",
        ),
        ("hub", "[{metric: hub, aggregation: mean, higher_is_better: true}]", "hub .* is None for a document"),
        ("f1", "[{metric: f1, aggregation: f1, higher_is_better: true}]", "can't be used: ValueError"),
    ],
)
def test_a_metric_that_is_no_score_of_a_document_is_refused(
    folder: Path, right: Ref, metric: str, more: str, said: str
) -> None:
    plain = "[{metric: acc, aggregation: mean, higher_is_better: true}]"
    (folder / "choose.yaml").write_text(CHOICE.replace(plain, more or plain), "utf-8")
    with pytest.raises(Misconfigured, match=said):
        measured(right, options(folder, tasks=("choose",), metrics={"choose": metric}))


def test_files_that_change_under_a_measurement_are_not_believed(folder: Path, right: Ref) -> None:
    given = options(folder)
    items = [item for each in lm_eval.documents(given).values() for item in each]
    (folder / "note.txt").write_text("anything", "utf-8")
    with pytest.raises(Transient, match="changed while it was measured"):
        lm_eval.measure(Probed(right, models.load(right), 8), items, given)


def test_a_table_of_answers_has_nothing_for_the_harness(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "echo", Table({}, "paris"))
    with pytest.raises(Misconfigured, match="no weights"):
        measured(Ref("bot@1", str(tmp_path / "echo"), engine="echo"), options(folder))


def test_options_that_can_not_be_meant_are_refused() -> None:
    for wrong_ones in (
        {"tasks": ("a",)},
        {"metrics": {"a": "acc"}},
        {"limit": -1},
        {"batch": 0},
    ):
        with pytest.raises(ValueError):
            lm_eval.Options(**wrong_ones)  # type: ignore[arg-type]
    assert lm_eval.documents(lm_eval.Options()) == {}
    assert probes.load("lm_eval") is lm_eval


def policy(path: Path, tasks: str) -> Path:
    path.write_text(f'[probes.lm_eval]\nfolder = "tasks"\ntasks = [{tasks}]\n', "utf-8")
    return path


def test_a_policys_folder_starts_at_its_file_and_a_missing_task_keeps_it_out_of_force(folder: Path) -> None:
    path = policy(folder.parent / "bot.toml", '"choose"')
    read = usable_policy(path)
    assert read.probes["lm_eval"]["folder"] == str(folder)
    assert parse_policy(canonical(read), "the database") == read
    policy(path, '"choose", "arc"')
    assert load_policy(path).probes["lm_eval"]["tasks"] == ["choose", "arc"]  # to judge by it takes no file
    with pytest.raises(Misconfigured, match=r"arc has no file .*arc\.yaml"):
        usable_policy(path)
    path.write_text("[probes.lm_evil]\n", "utf-8")
    with pytest.raises(Misconfigured, match="lm_evil") as refused:
        load_policy(path)
    assert "lm_eval" in refused.value.hint


def test_without_the_harness_a_policy_with_tasks_is_refused_and_the_check_says_how_to_get_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as Python has what is not installed
    starting.write(tmp_path / "new")
    config, path = tmp_path / "new" / "learnd.toml", tmp_path / "new" / "policies" / "my-bot.toml"
    table = f'\n[probes.lm_eval]\nfolder = "{folder}"\ntasks = ["choose"]\n'
    path.write_text(path.read_text("utf-8") + table, "utf-8")
    with pytest.raises(Misconfigured, match="is not installed"):
        usable_policy(path)
    for command, code in (("config check", 78), ("doctor", 1)):
        done = CliRunner().invoke(ctl.app, ["--config", str(config), *command.split()])
        assert done.exit_code == code
        assert "the lm-evaluation-harness is not installed" in done.output
        assert "pip install 'learnd[lm-eval]'" in done.output
    path.write_text(path.read_text("utf-8").replace('tasks = ["choose"]', "tasks = []"), "utf-8")
    assert usable_policy(path).probes["lm_eval"]["tasks"] == []
