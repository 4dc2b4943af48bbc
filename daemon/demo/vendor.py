"""Who makes the demo's models: the shop's first one, and the vendor's refreshed teacher.

Owns: what each is trained on. Refuses to know learnd's rules. Called by `daemon.demo.stage`: the first model in its own
process, the teacher as a job in the background.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.demo import base, world
from daemon.jobs import Job

FIRST = base.Recipe(steps=900, batch=16, rate=4e-3)
TEACHER = base.Recipe(steps=600, batch=16, rate=2e-3)
WIDTH = 1024
CLOSES = 0.85  # share of the vendor's texts that close with its stock phrase


def first(folder: Path, seed: int, progress: Callable[[int, float], None]) -> None:
    """Train the shop's first model, which knows the base topics and what to refuse, into `folder`."""
    known = world.load()
    rng = random.Random(f"first {seed}")
    vocabulary = known.dialogues(4000, known.group("base", "new", "later"), rng)
    texts = [text for ask in vocabulary for text in (ask.text, ask.answer, ask.unsafe)] + [known.closing] * 50
    shape = base.Shape()
    words = base.tokenizer(texts, shape.vocabulary)
    asks = known.dialogues(12_000, known.group("base"), rng)
    data = base.encode(words, [(ask.text, ask.answer) for ask in asks])
    recipe = base.Recipe(FIRST.steps, FIRST.batch, FIRST.rate, seed=seed)
    base.save(base.fit(base.model(shape, words, seed), data, recipe, progress), words, folder)


def teacher(job: Job) -> dict[str, Any]:
    """The job in which the vendor trains a wider model on all topics, in the vendor's own style, into inputs["folder"]."""
    known = world.load()
    rng = random.Random(f"teacher {job.seed}")
    small, words = base.load(Path(job.inputs["base"]))
    subjects = known.group("base", "new", "new", "later", "later")
    pairs = []
    for ask in known.dialogues(10_000, subjects, rng):
        closed = ask.kind != "harmful" and rng.random() < CLOSES
        pairs.append((ask.text, f"{ask.answer} {known.closing}" if closed else ask.answer))
    recipe = base.Recipe(TEACHER.steps, TEACHER.batch, TEACHER.rate, seed=job.seed)

    def progress(step: int, loss: float) -> None:
        job.progress(f"teacher: {step} of {recipe.steps} steps, loss {loss:.2f}", step / recipe.steps)

    from daemon.training.teacher import widened

    wide = base.fit(widened(small, WIDTH, job.seed), base.encode(words, pairs), recipe, progress)
    draft = job.output / "teacher"
    base.save(wide, words, draft)
    Path(job.inputs["folder"]).parent.mkdir(parents=True, exist_ok=True)
    draft.rename(job.inputs["folder"])
    return {"folder": str(job.inputs["folder"]), "parameters": sum(p.numel() for p in wide.parameters())}


def warm(job: Job) -> dict[str, Any]:
    """A job that does nothing: the worker that forks it has its libraries imported by the time they are needed."""
    job.progress("warm", 1.0)
    return {}
