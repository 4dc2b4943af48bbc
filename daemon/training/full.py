"""Full fine-tuning of a small student: corrections, pairs and ratings, one after the other, on all of its weights.

Owns: which weights move, and what is continued after a kill. Refuses to know adapters (`lora` plans the stages alike) and
whether the result is better (`policies.gates`). Called in the child by `daemon.jobs`.

An adapter of the champion is merged first; what comes out is a base of its own, with nothing stacked on it.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from daemon.jobs import Job, read_json, write_json
from daemon.models import Ref
from daemon.training import examples as lines
from daemon.training import lora, parse, plan
from daemon.training.examples import Example
from policies.errors import Misconfigured, Refused
from policies.words import count

BYTES = 16  # a parameter: itself, its gradient and AdamW's two moments, in float32


@dataclass(frozen=True, slots=True)
class Options:
    """`maximum_parameters` of a student: larger ones are refused. `freeze_layers`: lowest layers that stay as they are,
    with the embeddings below them (0: everything moves). `max_length` in tokens (0: the context); longer examples are left
    out and counted. `batch` examples a step, `micro_batch` at once (0: all of them).
    `sft`, `dpo`, `kto` switch a stage on or off; `sft_minimum`, `dpo_minimum`, `kto_minimum` examples are needed for it;
    it runs `sft_epochs`, `dpo_epochs`, `kto_epochs` at a peak learning rate of `sft_lr`, `dpo_lr`, `kto_lr`.
    `dpo_beta`, `kto_beta`: strength of the pull to the reference. `dpo_robust`: share of preferences taken to be flipped.
    `sft_drop`: share of a prompt's tokens that SFT hides, anew every time, so that few questions, seen often, aren't
    learned by heart. `sft_hold`: share in [0, 1] of the champion's own soft targets, in the place of the bare answer, in
    answers that it already gives. `favour_new`: how many times as much a new record counts as a replayed one that is as
    old and as trusted. `merge`: share in (0, 1] of the way from where a stage began to where it ended that its weights go.
    `dpo_imitate`, `kto_imitate`: how much preferred and praised answers are imitated besides (0: not at all; 1: as much as
    `sft` would imitate them).
    `imitate_positives`: praised answers are imitated where there are too few ratings for KTO.
    `schedule`: cosine, linear or constant, after `warmup` (share of the steps, or steps from 1 on); `weight_decay` of
    AdamW. `save_steps`: steps between checkpoints (0: none). `threads` of a CPU (0: all; 1 is bitwise reproducible).
    """

    maximum_parameters: int = 2_000_000_000
    freeze_layers: int = 0
    max_length: int = 0
    batch: int = 16
    micro_batch: int = 0
    sft: bool = True
    sft_minimum: int = 1
    sft_epochs: float = 3.0
    sft_lr: float = 2e-5
    sft_drop: float = 0.0
    sft_hold: float = 0.5
    dpo: bool = True
    dpo_minimum: int = 50
    dpo_epochs: float = 1.0
    dpo_lr: float = 5e-6
    dpo_beta: float = 0.1
    dpo_robust: float = 0.1
    dpo_imitate: float = 1.0
    kto: bool = True
    kto_minimum: int = 50
    kto_epochs: float = 1.0
    kto_lr: float = 5e-6
    kto_beta: float = 0.1
    kto_imitate: float = 1.0
    favour_new: float = 1.3
    merge: float = 0.97
    imitate_positives: bool = True
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    save_steps: int = 200
    threads: int = 0

    def __post_init__(self) -> None:
        if self.maximum_parameters < 1 or self.freeze_layers < 0:
            raise ValueError("maximum_parameters is at least 1, freeze_layers at least 0")
        plan.check(self)


@dataclass(frozen=True, slots=True)
class Run:
    """What all stages share; `context` in tokens."""

    job: Job
    options: Options
    champion: Ref
    tokenizer: Any
    device: Any
    context: int
    checkpoint: Path


def train(job: Job) -> dict[str, Any]:
    """Train a copy of the champion, write its full weights to `job.output`, and say what it took.

    Raises: Refused (nothing to learn from, too large, no finite loss, out of GPU memory), Misconfigured (options,
    tokenizer, folders), Transient (no GPU), Corrupt (a broken training file).
    """
    from daemon.training import teacher

    begin = perf_counter()
    options = parse(Options, job.inputs.get("options", {}))
    groups = lora.plan(lines.read(job.inputs["dataset"]), options)
    run = _prepare(job, options)
    model = teacher.merged(run.champion)
    _freeze(model, options.freeze_layers)
    model.to(run.device)
    stages: dict[str, dict[str, Any]] = {}
    for number, (name, group) in enumerate(groups.items()):
        span = (number / len(groups), (number + 1) / len(groups))
        stages[name] = _stage(run, model, name, group, span)
    teacher.saved(model, run.champion, run.tokenizer, job.output)
    job.progress(f"trained on {sum(map(len, groups.values()))} examples", 1.0)
    return {
        "kind": "base",
        "engine": "transformers",
        "base": "",
        "depth": 0,
        "method": "full",
        "seconds": perf_counter() - begin,
        "tokens": sum(int(stage["tokens"]) for stage in stages.values()),
        "started": f"all weights of {run.champion.name}",
        "metrics": {"stages": stages, "weights": "in every loss"},
    }


def _prepare(job: Job, options: Options) -> Run:
    """What the stages share. Raises: Refused, where the student has more parameters than may be trained."""
    from daemon.training import opening
    from daemon.transformers_model import context_of

    found = opening.opened(job, options.threads)
    parameters = sum(p.numel() for p in found.outline.parameters())
    if parameters > options.maximum_parameters:
        needed = f"about {BYTES * parameters / 2**30:.0f} GiB to train all of them"
        hint = f"it takes {needed}: raise maximum_parameters, or use the method lora"
        raise Refused(f"{found.champion.name} has {count(parameters)} parameters", hint=hint)
    context = context_of(found.outline)
    longest = min(context, options.max_length or context)
    return Run(job, options, found.champion, found.tokenizer, found.device, longest, found.checkpoint)


def _freeze(model: Any, lowest: int) -> None:
    """Hold the lowest layers, and the embeddings below them, where they are.

    Raises: Misconfigured, when no layer would be left to train.
    """
    import torch

    if not lowest:
        return
    count = int(model.config.get_text_config().num_hidden_layers)
    stack = next((one for one in model.modules() if isinstance(one, torch.nn.ModuleList) and len(one) == count), None)
    if stack is None or lowest >= count:
        raise Misconfigured(f"freeze_layers = {lowest}", hint=f"the base has {count} layers: leave one to train")
    for module in (model.get_input_embeddings(), *stack[:lowest]):
        module.requires_grad_(False)


def _stage(run: Run, model: Any, name: str, group: Sequence[Example], span: tuple[float, float]) -> dict[str, Any]:
    """Train `model` in place on one stage, or take the weights that an earlier attempt left; what it took."""
    from safetensors.torch import save_file

    from daemon.training import adapters, packed, tokens
    from daemon.training.meter import Meter
    from daemon.training.plan import Plan
    from daemon.training.retain import merge

    done = run.checkpoint / f"{name}-done"
    if done.exists():
        return _taken(model, done)
    begin, options = perf_counter(), run.options
    samples, dropped = tokens.encode(run.tokenizer, group, run.context)
    samples = tokens.favoured(samples, options.favour_new)
    samples = tokens.evened(samples, [len(one.answer) if name == "sft" else 1 for one in samples])
    micro, gpu = options.micro_batch or options.batch, run.device.type == "cuda"
    stage = Plan.of(options, name, len(samples), micro, seed=run.job.seed, gpu=gpu)
    meter = Meter(run.job.progress, name, *span)
    start = adapters.trained(model) if options.merge < 1 else {}
    fitted = packed.fit(model, run.tokenizer, samples, stage, run.checkpoint / name, meter)
    merge.back(model, start, options.merge)
    facts = {
        "examples": len(samples),
        "dropped": dropped,
        **asdict(fitted),
        "seconds": perf_counter() - begin,
    }
    draft = run.checkpoint / f".{name}-done"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    trained = {key: p.detach().contiguous() for key, p in model.named_parameters() if p.requires_grad}
    save_file(trained, draft / "weights.safetensors")
    write_json(draft / "metrics.json", facts)
    draft.rename(done)
    shutil.rmtree(run.checkpoint / name, ignore_errors=True)
    return facts


def _taken(model: Any, done: Path) -> dict[str, Any]:
    """Put the weights of a finished stage into the model."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(done / "weights.safetensors"), strict=False)
    return read_json(done / "metrics.json") or {}
