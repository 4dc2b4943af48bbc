"""Tasks of the lm-evaluation-harness, from a folder of local files, document by document.

Owns: which files make a task, its name (with a digest of them), and how a document's metric becomes a measurement, which
the gate retention judges. Refuses the network, groups of tasks, and metrics that are no score of a single document. Called
by `daemon.policyfile` (verify), `daemon.ledger` (names), `daemon.study` (documents) and `daemon.evaluation` (measure).

A task is FOLDER/NAME.yaml as the harness knows it, with `dataset_path: json` and its `data_files` (JSON Lines) beside it.
Functions that it names (`!function`) and templates are run: the folder belongs to whoever may write the policy. The
harness (Gao et al. 2021, doi:10.5281/zenodo.5371628) is an extra, imported only where a task is asked for.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.codec import canonical
from daemon.probes import Item, Probed
from policies.errors import Misconfigured, Transient
from policies.model import Measurement

SEED = 1234  # the harness's own: of the examples that are shown, and of what a task samples
# Another folder's tasks are other tasks, whatever their names; the prompts of a chat are other prompts.
LOOSER = {
    "folder": "replaced",
    "tasks": "fewer",
    "metrics": "changed",
    "limit": "lower or all",
    "chat": "changed",
    "batch": "never",
}
BESIDE = "dataset_path: json, and dataset_kwargs: {data_files: {test: NAME.jsonl}} in the task's folder"


@dataclass(frozen=True)
class Options:
    """`folder`: of the tasks' files, from the policy's own. `tasks`: their names, NAME for NAME.yaml.

    `metrics`: a task's metric by its name, where it isn't its first. `limit`: documents of a task, its first ones (0: all).
    `chat`: whether prompts go through the model's chat template. `batch`: prompts at once.
    """

    folder: Path | None = None
    tasks: tuple[str, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    limit: int = 0
    chat: bool = True
    batch: int = 16

    def __post_init__(self) -> None:
        if self.tasks and self.folder is None:
            raise ValueError("tasks need the folder of their files")
        if strange := sorted(set(self.metrics) - set(self.tasks)):
            raise ValueError(f"metrics names {strange[0]!r}, which is none of the tasks")
        if self.limit < 0 or self.batch < 1:
            raise ValueError("limit is 0 at least, batch 1")


def verify(options: Options) -> None:
    """Nothing where the harness is installed and every task has its file.

    Raises: Misconfigured.
    """
    if options.tasks and importlib.util.find_spec("lm_eval") is None:
        hint = "install it into learnd's venv: pip install 'learnd[lm-eval]'"
        raise Misconfigured("probes.lm_eval has tasks, and the lm-evaluation-harness is not installed", hint=hint)
    for name in options.tasks:
        path = _folder(options) / f"{name}.yaml"
        if not path.is_file():
            raise Misconfigured(f"the task {name} has no file {path}", hint="a task NAME is FOLDER/NAME.yaml")


def names(options: Options) -> dict[str, str]:
    """The tasks by the names of their sets: NAME@DIGEST, so that evidence says which files it was gained from.

    Raises: Misconfigured where a file can't be read.
    """
    if not options.tasks:
        return {}
    digest = _digest(_folder(options))[:12]
    return {f"{name}@{digest}": name for name in options.tasks}


def documents(options: Options) -> dict[str, tuple[Item, ...]]:
    """The documents that are asked, by set; what they say is the task's to know.

    Raises: Misconfigured where a task or its metric can't be used.
    """
    verify(options)
    found = {}
    for set_name, name in names(options).items():
        task = _task(options, name)
        _metric(task, options.metrics.get(name, ""), name)
        count = len(task.eval_docs)
        count = min(count, options.limit or count)
        found[set_name] = tuple(Item(set_name, str(number), (), slice=name) for number in range(count))
    return found


def measure(version: Probed, items: Sequence[Item], options: Options) -> list[Measurement]:
    """One score in [0, 1] a document; its slice is the task.

    `items` are whole sets of `documents`: a document's examples depend on the others.
    Raises: Misconfigured (no weights, no score), Transient (the files have changed since).
    """
    tasks, found = names(options), []
    for set_name in dict.fromkeys(item.set for item in items):
        if set_name not in tasks:
            hint = "the evaluation is tried again with what the folder holds now"
            raise Transient(f"the files of {set_name} changed while it was measured", hint=hint)
        samples = _samples(version, options, tasks[set_name])
        for item in (item for item in items if item.set == set_name):
            value, said = samples[item.id]
            version.said[(item.set, item.id)] = said
            found.append(version.measured("lm_eval", item, value, SEED))
        version.report(len(samples))
    return found


def _folder(options: Options) -> Path:
    assert options.folder is not None  # where there are tasks there is a folder: `Options`
    return options.folder


def _digest(folder: Path) -> str:
    """SHA-256 (hex) of the canonical JSON {path below `folder`: SHA-256 of the file}, caches left out.

    Raises: Misconfigured where a file can't be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    try:
        known = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    except OSError as error:
        raise Misconfigured(f"the tasks' files can't be read: {error}", hint="check their owner and mode") from error
    return hashlib.sha256(canonical(known)).hexdigest()


def _task(options: Options, name: str) -> Any:
    """The harness's task on our rows."""
    from lm_eval.api.task import ConfigurableTask

    folder = _folder(options).resolve()
    with _blamed(name, folder):
        config = _config(folder / f"{name}.yaml", folder)
        rows = {split: _rows(folder, path) for split, path in _data_files(config, name).items()}
        # Read by us, so that nothing is copied into a cache below a home folder that a service doesn't have.
        config |= {"task": name, "dataset_kwargs": None, "metadata": None, "custom_dataset": lambda: rows}
        task = ConfigurableTask(config={key: value for key, value in config.items() if key not in ("tag", "group")})
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(SEED)
    return task


@contextmanager
def _blamed(name: str, folder: Path, ours: tuple[type[Exception], ...] = (Misconfigured,)) -> Iterator[None]:
    """Whatever a task's files and functions raise is for their author to mend, but for `ours`."""
    try:
        yield
    except ours:
        raise
    except Exception as error:  # it may run code of its own, which may raise anything
        said = f"the task {name} can't be used: {type(error).__name__}: {error}"
        raise Misconfigured(said, hint=f"its files are in {folder}") from error


def _config(path: Path, folder: Path) -> dict[str, Any]:
    """A task file laid over those that it includes, all of them within the folder that the digest covers."""
    from lm_eval.tasks._yaml_loader import load_yaml

    own: dict[str, Any] = load_yaml(path, recursive=False)
    included = own.pop("include", [])
    merged: dict[str, Any] = {}
    for each in [included] if isinstance(included, str) else included:
        merged |= _config(_inside(folder, path.parent / each), folder)
    return merged | own


def _data_files(config: Mapping[str, Any], name: str) -> dict[str, str]:
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if config.get("dataset_path") != "json" or not isinstance(files, dict) or "task_list" in config:
        raise Misconfigured(f"the task {name} would fetch its data", hint=f"write {BESIDE}")
    return {str(split): str(path) for split, path in files.items()}


def _rows(folder: Path, name: str) -> Any:
    """The JSON Lines of one split as a data set of `datasets`."""
    import datasets

    text = _inside(folder, folder / name).read_text("utf-8")
    made: Any = datasets.Dataset.from_list([json.loads(line) for line in text.split("\n") if line.strip()])
    return made


def _inside(folder: Path, path: Path) -> Path:
    path = path.resolve()
    if not path.is_relative_to(folder):
        raise Misconfigured(f"{path} lies outside {folder}", hint="a task's files lie together: copy it there")
    return path


def _samples(version: Probed, options: Options, name: str) -> dict[str, tuple[float, str]]:
    """(score, what was said) of each document by its number, by the task's first filter."""
    import torch
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    ours: Any = version.model
    if not hasattr(ours, "tokenizer"):
        hint = "take the tasks out of [probes.lm_eval]: a table of answers has no likelihoods that they could read"
        raise Misconfigured(f"{version.name} has no weights, which the lm-evaluation-harness needs", hint=hint)
    task = _task(options, name)
    metric = _metric(task, options.metrics.get(name, ""), name)
    wrapped = HFLM(
        pretrained=ours.model,
        tokenizer=ours.tokenizer,
        batch_size=options.batch,
        max_length=ours.context,
        truncation=True,
    )
    cuda = [ours.model.device] if ours.model.device.type == "cuda" else []
    # A RuntimeError is torch's, as when memory runs out.
    with torch.random.fork_rng(devices=cuda), _blamed(name, _folder(options), (RuntimeError, OSError)):
        torch.manual_seed(SEED)
        told: Any = evaluator.evaluate(
            wrapped,
            {"tasks": {name: task}, "groups": {}},
            limit=options.limit or None,
            bootstrap_iters=0,
            apply_chat_template=options.chat,
            fewshot_as_multiturn=options.chat,
        )
    samples = told["samples"][name]
    kept = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    return {str(sample["doc_id"]): (_score(sample, metric, name), _said(sample)) for sample in kept}


def _metric(task: Any, wanted: str, name: str) -> str:
    """The metric that counts. Raises: Misconfigured, where there is none of that name or less of it is better."""
    known = dict(task.higher_is_better())
    metric = wanted or next(iter(known), "")
    if not known.get(metric):
        right = ", ".join(each for each, better in known.items() if better)
        said = f"the task {name} has no metric {metric!r} of which more is better"
        raise Misconfigured(said, hint=f"set metrics in [probes.lm_eval]; it has: {right or 'none'}")
    return metric


def _score(sample: Mapping[str, Any], metric: str, name: str) -> float:
    value: Any = sample.get(metric)
    value = value.item() if hasattr(value, "item") else value  # of numpy
    if not isinstance(value, int | float) or not 0 <= value <= 1:  # nor does NaN lie in between
        hint = "name one in metrics of [probes.lm_eval] that gives each document a score from 0 to 1, as acc"
        raise Misconfigured(f"{metric} of the task {name} is {value!r} for a document", hint=hint)
    return float(value)


def _said(sample: Mapping[str, Any]) -> str:
    """What was generated, or the continuation that was likeliest; nothing where a text as a whole was weighed."""
    answers = [each[0] for each in sample["resps"]]
    if not isinstance(answers[0], tuple):
        return answers[0].strip() if isinstance(answers[0], str) else ""
    likeliest = max(range(len(answers)), key=lambda place: float(answers[place][0]))
    return str(sample["arguments"][likeliest][-1]).strip()
