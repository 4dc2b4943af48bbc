"""Re-distillation: a refreshed teacher, its soft targets kept once, and a student that learns from them.

Owns: the two steps ("teacher", then "candidate"), which prompts and answers are learned on, and the names of what is
cached. Refuses to know when a teacher is due (`policies.method`) and whether it may teach (it passes its own gates
between the steps). Called in the child by `daemon.jobs`. Hinton et al. 2015 (arXiv 1503.02531).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from daemon.jobs import Job
from daemon.models import Ref
from daemon.training import examples as lines
from daemon.training import parse
from policies.errors import Misconfigured, Refused


@dataclass(frozen=True, slots=True)
class Options:
    """Teacher "self": `widen` its feed-forward layers to this width (0: as they are), then tune it for `teacher_epochs`
    (or `teacher_steps`, where above 0) at a peak learning rate of `teacher_lr`, `teacher_batch` examples a step.

    `answers` to learn on: "teacher" (what the teacher says) or "reference" (what was recorded, where something was,
    and what the teacher says elsewhere); `ce`: share of plain cross-entropy on recorded ones. `top`: likeliest tokens
    kept beside the tail bucket. `max_new_tokens` of the teacher's answers, where the deployment says nothing.
    `max_length` in tokens (0: the context). The student takes `epochs` (or `steps`, where above 0) at a peak `lr`,
    `batch` answers a step; both begin with `warmup` (share of the steps) and have AdamW's `weight_decay`.
    `save_steps`: between checkpoints (0: none). `threads` of a CPU (0: all; 1 is bitwise reproducible).
    """

    widen: int = 0
    teacher_epochs: float = 3.0
    teacher_steps: int = 0
    teacher_lr: float = 2e-5
    teacher_batch: int = 16
    answers: str = "teacher"
    ce: float = 0.0
    top: int = 16
    max_new_tokens: int = 256
    max_length: int = 0
    epochs: float = 2.0
    steps: int = 0
    lr: float = 5e-5
    batch: int = 16
    warmup: float = 0.03
    weight_decay: float = 0.0
    save_steps: int = 200
    threads: int = 0

    def __post_init__(self) -> None:
        if self.answers not in ("teacher", "reference"):
            raise ValueError('answers is "teacher" or "reference"')
        if not 0 <= self.ce <= 1 or (self.ce and self.answers == "teacher"):
            raise ValueError('ce lies in [0, 1] and needs answers = "reference"')
        if min(self.teacher_epochs, self.teacher_lr, self.epochs, self.lr, self.warmup + 1e-9) <= 0:
            raise ValueError("epochs and lr are above 0")
        if min(self.top, self.batch, self.teacher_batch, self.max_new_tokens) < 1:
            raise ValueError("top, batch, teacher_batch and max_new_tokens are at least 1")


@dataclass(frozen=True, slots=True)
class Run:
    """What both steps share."""

    job: Job
    options: Options
    champion: Ref
    tokenizer: Any
    device: Any
    checkpoint: Path


def train(job: Job) -> dict[str, Any]:
    """Make the teacher or, from a teacher, the candidate: full weights in `job.output`.

    Raises: Refused (nothing to learn from, vocabularies differ, no finite loss, out of GPU memory), Misconfigured
    (options, folders, tokenizers), Transient (no GPU), Corrupt (a broken training file).
    """
    begin = perf_counter()
    options = parse(Options, job.inputs.get("options", {}))
    named = job.inputs.get("teacher")
    if job.inputs.get("step") == "teacher":
        metrics = _copy(job, Ref.from_json(named)) if named else _tune(_prepare(job, options))
    elif named:
        metrics = _teach(_prepare(job, options), Ref.from_json(named))
    else:
        raise Misconfigured("no teacher to learn from", hint='set method.teacher to a folder or to "self"')
    tokens = int(metrics.pop("tokens"))
    return {
        "kind": "base",
        "engine": "transformers",
        "base": "",
        "depth": 0,
        "method": "distill",
        "seconds": perf_counter() - begin,
        "tokens": tokens,
        "teacher": Ref.from_json(named).name if named else "self",
        "metrics": metrics,
    }


def _prepare(job: Job, options: Options) -> Run:
    from daemon.training import opening

    found = opening.opened(job, options.threads)
    return Run(job, options, found.champion, found.tokenizer, found.device, found.checkpoint)


def _copy(job: Job, teacher: Ref) -> dict[str, Any]:
    """A new revision that a person named: taken as it is, once it proves to be a model that can be asked."""
    from daemon.training.teacher import copied
    from daemon.transformers_model import open_tokenizer, outline

    outline(teacher)
    open_tokenizer(teacher)
    copied(teacher, job.output)
    job.progress(f"copied {teacher.name}", 1.0)
    return {"tokens": 0, "copied": True}


def _tune(run: Run) -> dict[str, Any]:
    """The champion, merged and widened, fine-tuned on all answers of the training file."""
    from daemon.training import loop, packing, teacher, tokens
    from daemon.training.meter import Meter
    from daemon.training.objectives import sft
    from daemon.transformers_model import context_of

    options = run.options
    answers = lines.answers(lines.read(run.job.inputs["dataset"]))
    if not answers:
        raise Refused("no answer to tune a teacher on", hint="a teacher learns from corrections and praised answers")
    model = teacher.merged(run.champion)
    if options.widen:
        model = teacher.widened(model, options.widen, run.job.seed)
    model.to(run.device)
    samples, dropped = tokens.encode(run.tokenizer, answers, _context(options, context_of(model)))
    lengths, sizes = [one.length for one in samples], [len(one.answer) for one in samples]
    samples = tokens.evened(samples, sizes)
    steps = loop.order(lengths, options.teacher_batch, options.teacher_epochs, options.teacher_steps, run.job.seed)
    settings = loop.Settings(options.teacher_lr, options.warmup, options.weight_decay, options.save_steps, run.job.seed)
    loss = sft.imitated(samples, packing.reader(model, run.tokenizer.pad_token_id))
    meter = Meter(run.job.progress, "tuning the teacher")
    fitted = loop.fit(model, steps, loss, sizes, lengths, settings, run.checkpoint, meter)
    teacher.saved(model, run.tokenizer, run.job.output)
    read = sum(lengths[row] for step in steps for row in step)
    return {"tokens": read, "examples": len(samples), "dropped": dropped, "widen": options.widen, **_told(fitted)}


def _teach(run: Run, ref: Ref) -> dict[str, Any]:
    """The champion, merged, trained towards what the teacher thinks of every token."""
    from daemon.training import loop, packing, teacher, transfer
    from daemon.training.losses import distillation
    from daemon.training.meter import Meter
    from daemon.transformers_model import context_of

    options, begin = run.options, perf_counter()
    student = teacher.merged(run.champion)
    lesson = transfer.lesson(
        _request(run, ref, context_of(student)),
        transfer.prompts(lines.read(run.job.inputs["dataset"]), run.job.inputs.get("prompts")),
        run.tokenizer,
        transfer.common_vocabulary(run.tokenizer, student, ref),
        Meter(run.job.progress, "asking the teacher", 0.0, 0.4),
    )
    asked = perf_counter() - begin
    student.to(run.device)
    lengths = [len(row.prompt) + len(row.answer) for row in lesson.rows]
    steps = loop.order(lengths, options.batch, options.epochs, options.steps, run.job.seed)
    settings = loop.Settings(options.lr, options.warmup, options.weight_decay, options.save_steps, run.job.seed)
    loss = distillation(lesson, partial(packing.padded, pad=run.tokenizer.pad_token_id), options.ce)
    meter = Meter(run.job.progress, "teaching the student", 0.4)
    sizes = [len(row.answer) for row in lesson.rows]
    fitted = loop.fit(student, steps, loss, sizes, lengths, settings, run.checkpoint, meter)
    teacher.saved(student, run.tokenizer, run.job.output)
    return {
        "tokens": sum(lengths[row] for step in steps for row in step),
        "examples": len(lesson.rows),
        "dropped": lesson.dropped,
        "references": sum(row.reference for row in lesson.rows),
        "cache": lesson.key,
        "cache_hit": lesson.hit,
        "cache_seconds": asked,
        **_told(fitted),
    }


def _request(run: Run, ref: Ref, context: int) -> Any:
    from daemon.training.transfer import Request

    return Request(
        teacher=ref,
        device=run.job.device,
        answers=run.options.answers,
        top=run.options.top,
        max_new_tokens=int(run.job.inputs.get("max_new_tokens") or run.options.max_new_tokens),
        context=_context(run.options, context),
        cache=Path(run.job.inputs["cache"]),
    )


def _context(options: Options, context: int) -> int:
    return min(context, options.max_length or context)


def _told(fitted: Any) -> dict[str, Any]:
    return {name: getattr(fitted, name) for name in ("steps", "loss_first", "loss_last", "resumed")}
