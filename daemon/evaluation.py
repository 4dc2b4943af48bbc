"""The evaluation job: asks champion, candidate and anchor the same questions and writes down what came out.

Owns: the order of the questions, the file of measurements, the prompts that tell two versions apart. Refuses to judge
(`policies.gates`) and to read the database. Called by `daemon.jobs`, in the child, with inputs {"versions", "sets",
"judge", "seed", "options", "max_new_tokens", "cache"}; leaves measurements.jsonl and distinct.jsonl in its folder.

One version is loaded at a time, the champion first: its sampled answers are what retention measures the others on.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from daemon import environment, models, probes, study
from daemon.codec import canonical
from daemon.jobs import Job
from daemon.models import Ref
from daemon.probes import Item, Probed, budget, retention
from daemon.study import JUDGE, PROBE_OF, ItemSet, Row, Study
from policies.model import Measurement

log = structlog.get_logger()

DISTINCT = 20  # prompts recorded to prove serving with
TELLING = ("goldens", JUDGE)  # roles whose answers tell two versions apart; users' own prompts come last


@dataclass
class Progress:
    """How many of all answers are there, told to the job as they come."""

    job: Job
    total: int
    done: int = 0

    def add(self, count: int, name: str) -> None:
        """Note that `name` has answered `count` more prompts."""
        self.done = min(self.done + count, self.total)
        self.job.progress(f"{name}: {self.done} of {self.total} answers", self.done / max(self.total, 1))


@dataclass
class Found:
    """What one version gave: rows of measurements.jsonl, and what it said to each (set, item)."""

    environment: str
    rows: list[Row] = field(default_factory=list)
    said: dict[tuple[str, str], str] = field(default_factory=dict)


def run(job: Job) -> dict[str, Any]:
    """Measure every version on every set.

    Raises: Misconfigured (a model or an option that can't be used), Refused (a check that isn't valid), Transient.
    """
    started = time.perf_counter()
    plan = study.read(job)
    progress = Progress(job, sum(len(each.items) for each in plan.sets) * len(plan.refs))
    found: dict[str, Found] = {}
    with _opened(plan, plan.champion) as version:
        plan = replace(plan, sets=tuple(_completed(plan, version, each) for each in plan.sets))
        champion = found[version.name] = _measure(plan, version, progress)
    differing: list[Item] = []
    shown: list[Item] = []
    if plan.candidate.name != plan.champion.name:
        with _opened(plan, plan.candidate) as version:
            candidate = found[version.name] = _measure(plan, version, progress)
            differing = _differing(plan, champion, candidate)
            shown = _steady(version, differing[:DISTINCT], candidate)
    if shown:
        with _opened(plan, plan.champion) as version:
            shown = _steady(version, shown, champion)
    if plan.anchor is not None:
        with _opened(plan, plan.anchor) as version:
            found[version.name] = _measure(plan, version, progress)
    proof = _row(_proof(plan, found, len(differing) if shown else 0))
    rows = [*(row for each in found.values() for row in each.rows), proof]
    study.write_lines(job.folder / "distinct.jsonl", [_line(item, found, plan) for item in shown])
    study.write_lines(job.folder / "measurements.jsonl", rows)
    log.info("evaluated", job=job.key, measurements=len(rows), distinct=len(shown))
    seconds = round(time.perf_counter() - started, 3)
    return {"measurements": len(rows), "seconds": seconds, "environment": champion.environment}


@contextmanager
def _opened(plan: Study, ref: Ref) -> Iterator[Probed]:
    """The version, loaded; let go of before the next one comes."""
    budget.forget_peak()
    model = models.load(ref, device=plan.device)
    ran = environment.digest("cuda" if budget.cuda() else "cpu")
    version = Probed(ref, model, plan.max_new_tokens, ran)
    try:
        yield version
    finally:
        version.close()
        del model
        if ref.engine != "echo":  # weights hide in reference cycles; a table doesn't
            gc.collect()
        if torch := budget.cuda():
            torch.cuda.empty_cache()


def _completed(plan: Study, champion: Probed, asked: ItemSet) -> ItemSet:
    """An anchor set with an answer to each item that the champion sampled; any other set as it is."""
    if PROBE_OF[asked.role] != "retention":
        return asked
    options = replace(plan.options["retention"], seed=plan.options["retention"].seed or asked.seed)
    # All of a set are drawn in one go, so that each answer depends on the others.
    ran = f"sampled {asked.hash} {champion.environment}"
    key = plan.memory.key(plan.champion, asked, options, plan.max_new_tokens, ran)
    known = plan.memory.get(key)
    if not known.keys() >= set(asked.hashes):
        drawn = retention.completed(champion, asked.items, options)
        known = {name: [{"completion": item.completion}] for name, item in zip(asked.hashes, drawn, strict=True)}
        plan.memory.put(key, known)
    pairs = zip(asked.items, asked.hashes, strict=True)
    return replace(asked, items=tuple(replace(item, completion=known[name][0]["completion"]) for item, name in pairs))


def _measure(plan: Study, version: Probed, progress: Progress) -> Found:
    """Every set by its probe, what was planned, and the budget."""
    found = Found(version.environment)
    for asked in plan.sets:
        found.rows.append(_planned(version, asked.name, len(asked.items)))
        if unsafe := sum(bool(item.unsafe) for item in asked.items):
            found.rows.append(_planned(version, asked.name, unsafe, "unsafe"))
        if judged := sum(item.check == "judge" for item in asked.items):
            found.rows.append(_planned(version, asked.name, judged, "judged"))
        found.rows.extend(_asked(plan, version, asked, progress))
    for row in found.rows:
        if row["probe"] in PROBE_OF.values():
            found.said[(row["set"], row["item"])] = row["said"]
    timed = [item for asked in plan.sets for item in asked.items if asked.role in TELLING]
    costs = budget.measure(version, timed, plan.options["budget"])
    found.rows += [_planned(version, budget.SET, len(budget.FIGURES)), *(_row(each) for each in costs)]
    return found


def _planned(version: Probed, name: str, count: int, what: str = "items") -> Row:
    """How many rows of a set there must be: a gate refuses where fewer were measured."""
    return _row(Measurement("plan", name, what, "", version.name, count, 0, version.environment))


def _asked(plan: Study, version: Probed, asked: ItemSet, progress: Progress) -> list[Row]:
    """The rows of one set, each item's remembered or asked for. What users wrote is not kept beyond its evaluation."""
    name = PROBE_OF[asked.role]
    options = plan.options[name]
    if name == "retention" and not options.seed:
        options = replace(options, seed=asked.seed)
    key = plan.memory.key(version.ref, asked, options, plan.max_new_tokens, version.environment)
    known = plan.memory.get(key) if asked.role != JUDGE else {}
    unknown = {item.id: place for item, place in zip(asked.items, asked.hashes, strict=True) if place not in known}
    before = progress.done
    if unknown:
        version.report = lambda count: progress.add(count, version.name)
        made: dict[str, list[Row]] = {place: [] for place in unknown.values()}
        for m in probes.load(name).measure(version, [item for item in asked.items if item.id in unknown], options):
            made[unknown[m.item]].append(_row(m, version.said.get((m.set, m.item), "")))
        if asked.role != JUDGE:
            plan.memory.put(key, made)
        known |= made
    progress.add(len(asked.items) - (progress.done - before), version.name)
    return [row for place in asked.hashes for row in known[place]]


def _differing(plan: Study, champion: Found, candidate: Found) -> list[Item]:
    """The items of different prompts to which the two said different things."""
    found: dict[bytes, Item] = {}
    for role in TELLING:
        for item in (item for asked in plan.sets if asked.role == role for item in asked.items):
            place = (item.set, item.id)
            if champion.said[place] != candidate.said[place]:
                found.setdefault(canonical(item.prompt), item)
    return list(found.values())


def _steady(version: Probed, items: list[Item], found: Found) -> list[Item]:
    """The items that the version answers as recorded when they are asked by themselves, as the target will be asked.

    In another batch a near tie between two tokens can fall the other way; such a prompt would accuse a sound target.
    """
    alone = Probed(version.ref, version.model, version.max_new_tokens, version.environment)
    said = alone.answer(items)
    return [item for item, text in zip(items, said, strict=True) if text == found.said[(item.set, item.id)]]


def _proof(plan: Study, found: dict[str, Found], count: int) -> Measurement:
    ran = found[plan.candidate.name].environment
    return Measurement("proof", "proof", "distinct_prompts", "", plan.candidate.name, count, 0, ran)


def _line(item: Item, found: dict[str, Found], plan: Study) -> Row:
    answers = {ref.name: found[ref.name].said[(item.set, item.id)] for ref in (plan.candidate, plan.champion)}
    return {"set": item.set, "item": item.id, "messages": item.prompt, "answers": answers}


def _row(measurement: Measurement, said: str = "") -> Row:
    return {**{name: getattr(measurement, name) for name in Measurement.__slots__}, "said": said}
