"""An incremental LoRA update: corrections, pairs and ratings, one after the other or together, on the champion's adapter.

Owns: which objectives the data offers, their order, what is continued after a kill, and what is left in the output.
Refuses to know whether the result is better (`policies.gates`). Called in the child by `daemon.jobs`.

Order: SFT on corrections first, since it moves the answers to where preferences can compare them; then DPO on pairs,
then KTO on ratings, each against the adapter as the stage before left it; or, with `mixed`, all in one stage, against the
champion. Hu et al. 2021 (arXiv 2106.09685).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from daemon.jobs import Job, read_json, write_json
from daemon.models import Ref
from daemon.training import examples as lines
from daemon.training import parse
from daemon.training.examples import Example
from daemon.training.lora_options import Options
from daemon.training.shape import AUTO, Shape
from policies.errors import Refused
from policies.words import count

if TYPE_CHECKING:  # torch is imported in the child alone
    from daemon.training.loop import Fitted
    from daemon.training.meter import Meter
    from daemon.training.tokens import Sample

MERGED = "merged"
MIXED = "mixed"
HALVINGS = 2


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
    from daemon.training import teacher

    begin = perf_counter()
    options = parse(Options, job.inputs.get("options", {}))
    examples = lines.paired(lines.read(job.inputs["dataset"]))
    groups = plan(examples, options)
    run = _sized(_prepare(job, options), groups)
    stages: dict[str, dict[str, Any]] = {}
    adapter = None if run.fresh else Path(run.champion.folder)
    wanted = {MIXED: groups} if options.mixed else {name: {name: group} for name, group in groups.items()}
    for number, (name, some) in enumerate(wanted.items()):
        span = (number / len(wanted), (number + 1) / len(wanted))
        adapter = _stage(run, name, some, adapter, span)
        stages[name] = read_json(adapter / "metrics.json") or {}
    assert adapter is not None
    if run.whole:
        teacher.combined(Ref(run.champion.name, str(adapter), run.champion.folder), job.output, gpu=run.gpu)
    else:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(adapter / name, job.output / name)
    teacher.tokenizer_of(run.champion, run.tokenizer, job.output)
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
    mixed = getattr(options, "mixed", False)  # a way that doesn't know the word makes stages
    if options.imitate_positives and (mixed or not rate):
        sft += tuple(one for one in rated if one.label)
    if options.imitate_positives and mixed:
        sft += lines.preferred(pairs, beside=sft)
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
    """What the stages share; a champion with too many updates on its adapter is merged here."""
    from daemon.training import adapters, opening, teacher
    from daemon.transformers_model import context_of

    found = opening.opened(job, options.threads)
    champion, tokenizer, checkpoint, gpu = (
        found.champion,
        found.tokenizer,
        found.checkpoint,
        found.device.type == "cuda",
    )
    shape, depth = Shape.of(options), int(job.inputs.get("depth", 0))
    linear, context = adapters.linear_layers(found.outline), context_of(found.outline) - shape.before
    fresh = adapters.why_fresh(champion, depth, shape, linear, str(job.inputs["base"]["name"]))
    longest = min(context, options.max_length or context)
    updates = 1 if fresh else depth + 1
    whole = bool(champion.base) and 0 < options.merge_depth <= depth
    if whole:
        fresh = f"{count(depth, 'stacked update')}, merge_depth is {options.merge_depth}: merged into a new base"
        job.progress("merging the champion", 0.0)
        teacher.combined(champion, checkpoint / MERGED, gpu=gpu)
        teacher.tokenizer_of(champion, tokenizer, checkpoint / MERGED)
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


def _stage(
    run: Run, name: str, groups: Mapping[str, Sequence[Example]], adapter: Path | None, span: tuple[float, float]
) -> Path:
    """Train one stage, of one objective or several, from `adapter` on, unless an earlier attempt did; its adapter's folder.

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
            return _fit(run, name, groups, adapter, max(least, micro >> attempt), span)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    hint = "set micro_batch or max_length lower, quantisation = nf4, or take a larger GPU"
    raise Refused(f"out of GPU memory in {name}, even {micro >> HALVINGS} examples at once", hint=hint)


def _fit(
    run: Run,
    name: str,
    groups: Mapping[str, Sequence[Example]],
    adapter: Path | None,
    micro: int,
    span: tuple[float, float],
) -> Path:
    """One engine's run, from a model of its own (a shared one nests TRL's wrappers) to its adapter."""
    from transformers import set_seed

    from daemon.training import adapters
    from daemon.training.meter import Meter
    from daemon.training.retain import merge, olora, slao

    begin, options = perf_counter(), run.options
    samples, dropped = _encoded(run, groups)
    set_seed(run.job.seed)
    if options.olora and adapter == Path(run.champion.folder):
        adapter = olora.grown(adapter, run.shape.rank, run.checkpoint / "grown")
    model = adapters.opened(run.champion, adapter, run.shape, device=run.job.device, quantisation=options.quantisation)
    meter = Meter(run.job.progress, name, *span)
    if options.slao:
        slao.begin(model)
    start = adapters.trained(model)
    fitted = _trained(run, name, model, samples, micro, meter)
    merge.back(model, start, options.merge)
    if options.slao:
        slao.back(model, start, run.updates)
    facts = {
        "engine": options.engine,
        "examples": sum(map(len, samples.values())),
        "dropped": dropped,
        "micro_batch": micro,
        **asdict(fitted),
        "objectives": {one: {"examples": len(samples[one]), **told} for one, told in fitted.objectives.items()},
        "seconds": perf_counter() - begin,
    }
    return _keep(run, name, model, start, facts)


def _encoded(run: Run, groups: Mapping[str, Sequence[Example]]) -> "tuple[dict[str, list[Sample]], int]":
    """(samples by objective, dropped): their weights evened within each, and how many did not fit."""
    from daemon.training import tokens

    made, dropped = {}, 0
    for name, group in groups.items():
        some, lost = tokens.encode(run.tokenizer, group, run.context, edit_weight=run.options.edit_weight)
        some = tokens.favoured(some, run.options.favour_new)
        made[name] = tokens.evened(some, [len(one.answer) if name == "sft" else 1 for one in some])
        dropped += lost
    return made, dropped


def _trained(
    run: Run, name: str, model: Any, samples: "Mapping[str, Sequence[Sample]]", micro: int, meter: "Meter"
) -> "Fitted":
    """Train the model in place with the engine that was asked for; TRL is only imported where it is."""
    from daemon.training.plan import Plan

    options, folder, total = run.options, run.checkpoint / name, sum(map(len, samples.values()))
    plans = {one: Plan.of(options, one, total, micro, seed=run.job.seed, gpu=run.gpu) for one in samples}
    if options.olora and not run.fresh:
        from daemon.training.retain import olora

        older = olora.size(Path(run.champion.folder))
        plans = {one: replace(plan, older=older) for one, plan in plans.items()}
    if options.engine == "trl":
        from daemon.training import stages

        return stages.fit(model, run.tokenizer, samples[name], plans[name], folder, meter)
    from daemon.training import packed

    if name == MIXED:
        there = "sft" in samples and options.imitate_positives  # among the answers to imitate
        paced = {
            one: replace(plan, epochs=options.sft_epochs, lr=options.sft_lr, imitate=0.0 if there else plan.imitate)
            for one, plan in plans.items()
        }
        return packed.together(model, run.tokenizer, samples, paced, options.shares(samples), folder, meter)
    return packed.fit(model, run.tokenizer, samples[name], plans[name], folder, meter)


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
