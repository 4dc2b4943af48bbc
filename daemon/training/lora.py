"""An incremental LoRA update: corrections, pairs and ratings, one after the other, on the champion's adapter.

Owns: which objectives the data offers, their order, what is continued after a kill, and what is left in the output.
Refuses to know whether the result is better (`policies.gates`). Called in the child by `daemon.jobs`.

Order: SFT on corrections first, since it moves the answers to where preferences can compare them; then DPO on pairs,
then KTO on ratings, each against the adapter as the stage before left it. Hu et al. 2021 (arXiv 2106.09685).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from daemon.jobs import Job, read_json, write_json
from daemon.models import Ref
from daemon.training import examples as lines
from daemon.training import parse
from daemon.training.examples import Example
from daemon.training.shape import AUTO, Shape
from policies.errors import Misconfigured, Refused
from policies.words import count

STAGES = ("sft", "dpo", "kto")
ENGINES = ("packed", "trl")
MERGED = "merged"
HALVINGS = 2


@dataclass(frozen=True, slots=True)
class Options:
    """The adapter: `kind` is "lora", "rslora", "dora", "pissa", "prefix" or "prompt". vLLM serves no "dora", "prefix" and
    "prompt", transformers' load_adapter no "prefix" and "prompt"; PEFT loads all. A "pissa" is saved as a LoRA of twice its
    rank, over the base as it is. The kinds of LoRA have `rank`, `alpha`, `dropout` and `targets` ("all-linear" or names,
    comma-separated); `rank` and `targets` may be "auto": found by a short trial where an adapter begins fresh, the
    champion's own where it is continued. `freeze_layers` lowest layers get none. "prefix" and "prompt" have
    `virtual_tokens` and take as much of the context; they and "pissa" need engine = "packed".
    `merge_depth`: with so many updates on its adapter (0: never; below the policy's max_depth), the champion is merged
    into its unquantised base, and what is trained on that is merged as well: a version of full weights.
    `engine`: "packed", our own step (weights act in every loss, nothing is padded), or "trl", TRL's trainers, several
    times slower: the reference that ours is tested against (weights of pairs and ratings act by drawing).
    `quantisation` of the base while training: "", "nf4" or "int8". `max_length` in tokens (0: the base's context);
    longer examples are left out and counted. `batch` examples a step, `micro_batch` at once (0: all of them).
    `sft`, `dpo`, `kto` switch a stage on or off; `sft_minimum`, `dpo_minimum`, `kto_minimum` examples are needed for it;
    it runs `sft_epochs`, `dpo_epochs`, `kto_epochs` at a peak learning rate of `sft_lr`, `dpo_lr`, `kto_lr`.
    `dpo_beta`, `kto_beta`: strength of the pull to the reference. `dpo_robust`: share of preferences taken to be flipped.
    `edit_weight`: how many times as much the changed tokens of a correction count as those that the user left (1: alike;
    the correction as a whole counts the same).
    `sft_drop`: share of a prompt's tokens that SFT hides, anew every time, so that few questions, seen often, aren't
    learned by heart. `sft_hold`: share in [0, 1] of the champion's own soft targets, in the place of the bare answer, in
    answers that it already gives (above 0 it needs engine = "packed").
    These, too, are about SFT and need engine = "packed": `sft_forgotten`: share in (0, 1] of the replayed answers that are
    trained on, those that the champion is least sure of (1: all; the others cost a look each). `sft_mask`: perplexity
    under the champion above which a token isn't learned (0: all are). `sft_ewc`: strength of the pull on weights that
    replayed answers need (0: none). `sft_osf`: share in [0, 1) of the dominant directions of every adapted layer along
    which nothing moves (0: none; it needs an unquantised base).
    `favour_new`: how many times as much a new record counts as a replayed one that is as old and as trusted.
    `imitate_positives`: praised answers are imitated where there are too few ratings for KTO.
    `merge`: share in (0, 1] of the way from where a stage began to where it ended that its weights go (1: all of it).
    `slao`: the t-th update since a fresh start goes 1/sqrt(t) of the way, but for the adapter's first factors (neither it
    nor `sft_osf` goes with "pissa", "prefix" or "prompt").
    `schedule`: cosine, linear or constant, after `warmup` (share of the steps, or steps from 1 on); `weight_decay` of
    AdamW.
    `save_steps`: steps between checkpoints (0: none). `threads` of a CPU (0: all; 1 is bitwise reproducible).
    """

    engine: str = "packed"
    kind: str = "lora"
    rank: int | str = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str = "all-linear"
    freeze_layers: int = 0
    virtual_tokens: int = 16
    merge_depth: int = 0
    quantisation: str = ""
    max_length: int = 0
    batch: int = 16
    micro_batch: int = 0
    sft: bool = True
    sft_minimum: int = 1
    sft_epochs: float = 3.0
    sft_lr: float = 2e-4
    sft_drop: float = 0.0
    sft_hold: float = 0.0
    sft_forgotten: float = 1.0
    sft_mask: float = 0.0
    sft_ewc: float = 0.0
    sft_osf: float = 0.0
    dpo: bool = True
    dpo_minimum: int = 50
    dpo_epochs: float = 1.0
    dpo_lr: float = 2e-5
    dpo_beta: float = 0.1
    dpo_robust: float = 0.1
    kto: bool = True
    kto_minimum: int = 50
    kto_epochs: float = 1.0
    kto_lr: float = 2e-5
    kto_beta: float = 0.1
    edit_weight: float = 1.0
    favour_new: float = 1.0
    imitate_positives: bool = True
    merge: float = 1.0
    slao: bool = False
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    save_steps: int = 200
    threads: int = 0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine is one of {', '.join(ENGINES)}")
        if self.edit_weight < 1 or self.favour_new <= 0 or (self.edit_weight > 1 and self.engine == "trl"):
            raise ValueError('edit_weight is at least 1, and needs engine = "packed" above it; favour_new is above 0')
        self._check_adapter()
        if self.batch < 2:
            raise ValueError("batch is at least 2")
        if self.micro_batch and (self.batch % self.micro_batch or self.micro_batch < 2):
            raise ValueError(f"micro_batch {self.micro_batch} is at least 2 and divides batch {self.batch}")
        if self.quantisation not in ("", "nf4", "int8"):
            raise ValueError('quantisation is "", "nf4" or "int8"')
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ValueError("schedule is cosine, linear or constant")
        if not 0 <= self.dpo_robust < 0.5:
            raise ValueError("dpo_robust lies in [0, 0.5)")
        if not 0 <= self.sft_drop < 1:
            raise ValueError("sft_drop lies in [0, 1)")
        if not 0 <= self.sft_hold <= 1 or not 0 < self.sft_forgotten <= 1 or not 0 < self.merge <= 1:
            raise ValueError("sft_hold lies in [0, 1], sft_forgotten and merge in (0, 1]")
        if (self.sft_mask and self.sft_mask <= 1) or self.sft_ewc < 0 or not 0 <= self.sft_osf < 1:
            raise ValueError("sft_mask is 0 or above 1, sft_ewc at least 0, sft_osf lies in [0, 1)")
        held = self.sft_hold or self.sft_forgotten < 1 or self.sft_mask or self.sft_ewc or self.sft_osf
        if held and self.engine == "trl":
            raise ValueError('sft_hold, sft_forgotten, sft_mask, sft_ewc and sft_osf need engine = "packed"')
        if any(getattr(self, f"{stage}_{name}") <= 0 for stage in STAGES for name in ("epochs", "lr", "minimum")):
            raise ValueError("epochs, lr and minimum of every stage are above 0; switch a stage off with its own name")

    def _check_adapter(self) -> None:
        prompted = Shape.of(self).prompted
        if self.merge_depth < 0 or (self.merge_depth and prompted):
            raise ValueError("merge_depth is at least 0, and 0 for a prefix or prompt")
        if (prompted or self.kind == "pissa") and self.engine != "packed":
            raise ValueError(f'kind = "{self.kind}" needs engine = "packed"')
        if (self.slao or self.sft_osf) and (prompted or self.kind == "pissa"):
            raise ValueError(
                f'slao and sft_osf look at the factors of a LoRA: kind = "{self.kind}" has none of its own'
            )
        if self.kind == "pissa" and self.quantisation:
            raise ValueError('kind = "pissa" takes parts out of the weights: it needs quantisation = ""')


@dataclass(frozen=True, slots=True)
class Run:
    """What all stages share; `context` in tokens, `fresh` why an adapter is begun anew ("" where the champion's is
    continued), `sized` why it is as large as it is, `updates` that the adapter holds when this one has ended. `whole`:
    full weights come out.
    """

    job: Job
    options: Options
    champion: Ref
    shape: Shape
    fresh: str
    tokenizer: Any
    context: int
    gpu: bool
    checkpoint: Path
    updates: int
    whole: bool = False
    sized: str = ""


def train(job: Job) -> dict[str, Any]:
    """Train an adapter in `job.output` and say what it took.

    Raises: Refused (nothing to learn from, no finite loss, out of GPU memory), Misconfigured (options, tokenizer,
    folders), Transient (no GPU), Corrupt (a broken training file).
    """
    begin = perf_counter()
    options = parse(Options, job.inputs.get("options", {}))
    examples = lines.paired(lines.read(job.inputs["dataset"]))
    groups = plan(examples, options)
    run = _sized(_prepare(job, options), groups)
    stages: dict[str, dict[str, Any]] = {}
    adapter = None if run.fresh else Path(run.champion.folder)
    for number, (name, group) in enumerate(groups.items()):
        span = (number / len(groups), (number + 1) / len(groups))
        adapter = _stage(run, name, group, adapter, span)
        stages[name] = read_json(adapter / "metrics.json") or {}
    assert adapter is not None
    if run.whole:
        from daemon.training import teacher

        teacher.combined(Ref(run.champion.name, str(adapter), run.champion.folder), job.output, gpu=run.gpu)
    else:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(adapter / name, job.output / name)
    run.tokenizer.save_pretrained(job.output)
    job.progress(f"trained on {sum(map(len, groups.values()))} examples", 1.0)
    return _result(run, stages, perf_counter() - begin)


def plan(examples: Sequence[Example], options: Any) -> dict[str, tuple[Example, ...]]:
    """Stages in order, each with the examples that it learns from. Raises: Refused, when none has enough."""
    sft = tuple(one for one in examples if one.objective == "sft")
    pairs = tuple(one for one in examples if one.objective == "pair" and one.rejected)
    rated = tuple(one for one in examples if one.objective == "kto")
    groups: dict[str, tuple[Example, ...]] = {}
    both = len({one.label for one in rated}) == 2
    rate = options.kto and both and len(rated) >= options.kto_minimum
    if options.imitate_positives and not rate:
        sft += tuple(one for one in rated if one.label)
    if options.sft and len(sft) >= options.sft_minimum:
        groups["sft"] = sft
    if options.dpo and len(pairs) >= options.dpo_minimum:
        groups["dpo"] = pairs
    if rate:
        groups["kto"] = rated
    if not groups:
        found = f"{len(sft)} answers, {len(pairs)} pairs, {len(rated)} ratings"
        found += "" if both or not rated else " (all of one kind: KTO needs both)"
        hint = "collect more, or lower sft_minimum, dpo_minimum or kto_minimum"
        raise Refused(f"no objective has enough to learn from: {found}", hint=hint)
    return groups


def _prepare(job: Job, options: Options) -> Run:
    """What the stages share."""
    import torch

    from daemon.training import adapters, resume, teacher
    from daemon.transformers_model import check_vocabulary, context_of, open_tokenizer, outline, torch_device

    if options.threads:
        torch.set_num_threads(options.threads)
    job.progress("loading the champion", 0.0)
    champion = Ref.from_json(job.inputs["champion"])
    if champion.engine != "transformers":
        raise Misconfigured(f"{champion.name} has no weights", hint="its engine is echo: use the method echo")
    gpu = torch_device(job.device).type == "cuda"
    tokenizer = open_tokenizer(champion)
    base, shape, depth = outline(champion), Shape.of(options), int(job.inputs.get("depth", 0))
    check_vocabulary(champion, tokenizer, base)
    linear, context = adapters.linear_layers(base), context_of(base) - shape.before
    fresh = adapters.why_fresh(champion, depth, shape, linear, str(job.inputs["base"]["name"]))
    checkpoint = resume.claim(job, job.inputs.get("options", {}))
    longest = min(context, options.max_length or context)
    updates = 1 if fresh else depth + 1
    whole = bool(champion.base) and 0 < options.merge_depth <= depth
    if whole:
        fresh = f"{count(depth, 'stacked update')}, merge_depth is {options.merge_depth}: merged into a new base"
        job.progress("merging the champion", 0.0)
        teacher.combined(champion, checkpoint / MERGED, gpu=gpu)
        tokenizer.save_pretrained(checkpoint / MERGED)
        champion, updates = Ref(champion.name, str(checkpoint / MERGED)), 1
    return Run(job, options, champion, shape, fresh, tokenizer, longest, gpu, checkpoint, updates, whole)


def _sized(run: Run, groups: Mapping[str, Sequence[Example]]) -> Run:
    """The run with a rank and targets where "auto" leaves them open."""
    if AUTO not in (run.options.rank, run.options.targets):
        return run
    from daemon.training import adapters, sizing

    if not run.fresh:
        shape = adapters.shape_of(Path(run.champion.folder), run.shape)
        return replace(run, shape=shape, sized="the champion's adapter is continued as it is")

    shape, why = sizing.found(run, groups.get("sft", ()))
    return replace(run, shape=shape, sized=why)


def _stage(run: Run, name: str, group: Sequence[Example], adapter: Path | None, span: tuple[float, float]) -> Path:
    """Train one stage from `adapter` on, unless an earlier attempt did; the folder of its adapter.

    Out of GPU memory: half the micro-batch, twice.
    """
    import torch

    done = run.checkpoint / f"{name}-done"
    if done.exists():
        return done
    micro = run.options.micro_batch or run.options.batch
    least = 2 if name == "kto" and run.options.engine == "trl" else 1  # TRL's KTO pairs the rows of a micro-batch
    for attempt in range(HALVINGS + 1):
        try:
            return _fit(run, name, group, adapter, max(least, micro >> attempt), span)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    hint = "set micro_batch or max_length lower, quantisation = nf4, or take a larger GPU"
    raise Refused(f"out of GPU memory in {name}, even {micro >> HALVINGS} examples at once", hint=hint)


def _fit(
    run: Run, name: str, group: Sequence[Example], adapter: Path | None, micro: int, span: tuple[float, float]
) -> Path:
    """One engine's run, from a model of its own (a shared one nests TRL's wrappers) to its adapter."""
    from transformers import set_seed

    from daemon.training import adapters, tokens
    from daemon.training.meter import Meter
    from daemon.training.plan import Plan
    from daemon.training.retain import merge, slao

    begin, options = perf_counter(), run.options
    samples, dropped = tokens.encode(run.tokenizer, group, run.context, edit_weight=options.edit_weight)
    samples = tokens.favoured(samples, options.favour_new)
    samples = tokens.evened(samples, [len(one.answer) if name == "sft" else 1 for one in samples])
    plan = Plan.of(options, name, len(samples), micro, seed=run.job.seed, gpu=run.gpu)
    set_seed(run.job.seed)
    model = adapters.opened(run.champion, adapter, run.shape, device=run.job.device, quantisation=options.quantisation)
    meter = Meter(run.job.progress, name, *span)
    if options.slao:
        slao.begin(model)
    start = adapters.trained(model)
    fitted = _engine(options)(model, run.tokenizer, samples, plan, run.checkpoint / name, meter)
    merge.back(model, start, options.merge)
    if options.slao:
        slao.back(model, start, run.updates)
    facts = {
        "engine": options.engine,
        "examples": len(samples),
        "dropped": dropped,
        "micro_batch": micro,
        **asdict(fitted),
        "seconds": perf_counter() - begin,
    }
    return _keep(run, name, model, start, facts)


def _engine(options: Options) -> Any:
    """The `fit` of the engine that was asked for; TRL is only imported where it is."""
    if options.engine == "trl":
        from daemon.training import stages

        return stages.fit
    from daemon.training import packed

    return packed.fit


def _keep(run: Run, name: str, model: Any, start: Mapping[str, Any], facts: dict[str, Any]) -> Path:
    """Write a stage's adapter and what it took, whole or not at all; its checkpoints are let go."""
    from daemon.training import adapters

    draft, done = run.checkpoint / f".{name}-done", run.checkpoint / f"{name}-done"
    shutil.rmtree(draft, ignore_errors=True)
    adapters.save(model, draft, str(run.job.inputs["base"]["name"]), run.shape.kind, start)
    write_json(draft / "metrics.json", facts)
    draft.rename(done)
    shutil.rmtree(run.checkpoint / name, ignore_errors=True)
    return done


def _result(run: Run, stages: Mapping[str, Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    depth = int(run.job.inputs.get("depth", 0))
    return {
        "kind": "base" if run.whole else "adapter",
        "engine": "transformers",
        "base": "" if run.whole else str(run.job.inputs["base"]["name"]),
        "depth": 0 if run.whole else 1 if run.fresh else depth + 1,
        "method": "lora",
        "seconds": seconds,
        "tokens": sum(int(stage["tokens"]) for stage in stages.values()),
        "started": run.fresh or f"continued from {run.champion.name}",
        "sized": run.sized,
        "metrics": {"stages": dict(stages), "weights": _weights(run.options), "adapter": asdict(run.shape)},
    }


def _weights(options: Options) -> str:
    return "in every loss" if options.engine == "packed" else "sft: in the loss; pairs and ratings: drawn by weight"
