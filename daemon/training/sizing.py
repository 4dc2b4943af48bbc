"""How large a fresh adapter is, where the policy says "auto": by the number of examples and a short trial of each size.

Owns: which sizes are tried, the trial and the choice, with its reason. Refuses to know stages and jobs' results. Called by
`lora`.

A trial is a few steps on the training file's answers to imitate, judged on a slice of the same file that it doesn't see:
records of the `judge` fold are in no training file. It is a matter of the file, the options and the seed alone. A larger
adapter is taken only where it is worth it: what doesn't help costs memory, and forgets more (Biderman et al. 2024, LoRA
learns less and forgets less, arXiv 2405.09673).
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from daemon.jobs import read_json, write_json
from daemon.training import adapters, loop, packing, reference, tokens
from daemon.training.examples import Example
from daemon.training.meter import Meter
from daemon.training.objectives import sft
from daemon.training.shape import AUTO, Shape
from daemon.training.tokens import Sample
from daemon.transformers_model import outline
from policies.words import count

LADDERS = ((100, (8,)), (2000, (4, 8, 16)), (20_000, (8, 16, 32)))  # below so many examples: ranks that are tried
LARGEST = (16, 32, 64)
STEPS = 30
HELD = 8  # one question of so many is held out …
MOST = 256  # … and so many answers to them at most are asked about
WORTH = 0.01  # nats a token that a larger adapter must gain
FILE = "sizing.json"


def found(run: Any, examples: Sequence[Example]) -> tuple[Shape, str]:
    """The shape of `run` (a `lora.Run`) with a rank and targets, and why these. Kept in the checkpoint folder, so that a
    job that was killed goes on with the same.

    Raises: Refused, when a trial's loss is not finite; Misconfigured, when the base can't have such an adapter.
    """
    kept = read_json(run.checkpoint / FILE)
    if kept is None:
        shape, why = _found(run, examples)
        kept = {"rank": shape.rank, "targets": shape.targets, "why": why}
        write_json(run.checkpoint / FILE, kept)
    return replace(run.shape, rank=kept["rank"], targets=kept["targets"]), str(kept["why"])


def ladder(examples: int, least: int) -> tuple[int, ...]:
    """The ranks that so many examples are worth trying, none above `least`, the smallest width of a layer."""
    ranks = next((ranks for below, ranks in LADDERS if examples < below), LARGEST)
    return tuple(rank for rank in ranks if rank <= least) or (least,)


def best(nats: Mapping[Any, float]) -> Any:
    """The first size, in their order, within WORTH of the best one: nats a token by size, the smallest first."""
    return next(size for size, value in nats.items() if value <= min(nats.values()) + WORTH)


def split(samples: Iterable[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """(to train on, held out): one question of HELD, all of its samples on one side."""
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for one in samples:
        groups.setdefault(tuple(one.prompt), []).append(one)
    questions = sorted(groups)
    random.Random(seed).shuffle(questions)
    cut = len(questions) // HELD
    train, held = ([one for name in names for one in groups[name]] for names in (questions[cut:], questions[:cut]))
    return train, held[:MOST]


def _found(run: Any, examples: Sequence[Example]) -> tuple[Shape, str]:
    base = outline(run.champion)
    ranks = ladder(len(examples), _least(base)) if run.options.rank == AUTO else (run.shape.rank,)
    shape = replace(run.shape, rank=ranks[len(ranks) // 2])
    targets = _attention(base) if shape.targets == AUTO else ""
    samples = tokens.encode(run.tokenizer, examples, run.context)[0] if examples else []
    train, held = split(samples, run.job.seed)
    if len(samples) < LADDERS[0][0] or not held:
        shape = replace(shape, targets="all-linear" if shape.targets == AUTO else shape.targets)
        return shape, f"rank {shape.rank}: {count(len(samples), 'answer')} to imitate are too few for a trial"
    trial, reasons = _Trial(run, train, held), list[str]()
    if shape.targets == AUTO:
        tried = {one: trial(replace(shape, targets=one)) for one in (targets, "all-linear") if one}
        shape = replace(shape, targets=best(tried))
        reasons.append(f"targets {shape.targets}: {_told(tried) if targets else 'no layer says that it is attention'}")
    if len(ranks) > 1:
        by_rank = {rank: trial(replace(shape, rank=rank)) for rank in ranks}
        shape = replace(shape, rank=best(by_rank))
        reasons.append(f"rank {shape.rank}: {_told({f'rank {rank}': value for rank, value in by_rank.items()})}")
    basis = f"{count(len(samples), 'example')}, {count(len(held))} of them held out from trials of {STEPS} steps"
    return shape, "; ".join([basis, *reasons])


class _Trial:
    """Nats a held-out token after a few steps with an adapter of some shape; each shape is tried once."""

    def __init__(self, run: Any, train: Sequence[Sample], held: Sequence[Sample]) -> None:
        self.run, self.held = run, held
        self.samples = tokens.evened(train, [len(one.answer) for one in train])
        self.known: dict[Shape, float] = {}

    def __call__(self, shape: Shape) -> float:
        if shape not in self.known:
            self.known[shape] = self._tried(shape)
        return self.known[shape]

    def _tried(self, shape: Shape) -> float:
        run, options = self.run, self.run.options
        torch.manual_seed(run.job.seed)
        model = adapters.opened(run.champion, None, shape, device=run.job.device, quantisation=options.quantisation)
        read = packing.reader(model, run.tokenizer.pad_token_id)
        lengths = [one.length for one in self.samples]
        steps = loop.order(lengths, options.batch, 0, STEPS, run.job.seed)
        settings = loop.Settings(
            options.sft_lr, 0.1, options.weight_decay, 0, run.job.seed, micro=options.micro_batch, schedule="constant"
        )
        meter = Meter(run.job.progress, f"trying rank {shape.rank} on {shape.targets}", 0.0, 0.0)
        loss = sft.imitated(self.samples, read)
        sizes = [len(one.answer) for one in self.samples]
        loop.fit(model, steps, loss, sizes, lengths, settings, run.checkpoint / "trials", meter)
        return _cost(model.eval(), read, self.held, options.batch)


def _cost(model: Any, read: Any, samples: Sequence[Sample], batch: int) -> float:
    """Nats an answer token."""
    with loop.precision(model):
        nats = [
            value
            for start in range(0, len(samples), batch)
            for value in reference.totals(
                model, read, [(one.prompt, [one.answer]) for one in samples[start : start + batch]]
            )
        ]
    return sum(nats) / sum(len(one.answer) for one in samples)


def _told(nats: Mapping[Any, float]) -> str:
    parts = [f"{value:.3f} with {size}" for size, value in nats.items()]
    return f"nats a held-out token {', '.join(parts)}; a larger one has to gain {WORTH}"


def _least(base: Any) -> int:
    """The smallest width of a linear layer."""
    return min(min(layer.weight.shape) for layer in base.modules() if isinstance(layer, torch.nn.Linear))


def _attention(base: Any) -> str:
    """The names of the linear layers of attention, comma-separated, "" where their places don't tell."""
    places = [name.split(".") for name, layer in base.named_modules() if isinstance(layer, torch.nn.Linear)]
    names = {place[-1] for place in places if any("attn" in part or "attention" in part for part in place[:-1])}
    return ",".join(sorted(names)) if names < adapters.linear_layers(base) else ""
