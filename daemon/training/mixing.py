"""Several objectives in one step, each with its share of the loss.

Owns: how many rows of each a step holds, and how their losses add up. Refuses to know formulas (`objectives`) and
optimisers. Called by `packed`.

Each objective's loss is divided by what the step holds of it alone (answer tokens, pairs or ratings), then weighed with
its share: how many rows of it a step has changes how noisy its gradient is, and never how much it counts.
"""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from daemon.training.plan import Plan
from daemon.training.task import Task
from daemon.training.tokens import mixed

LEAST = 2  # rows of an objective in a step: ratings need both labels


def order(groups: Sequence[Sequence[bool]], shares: Sequence[float], plan: Plan) -> list[list[int]]:
    """Row numbers of every step, counted through all groups (each the labels of an objective's rows); `shares` sum to 1.

    A step has about `batch` rows, in the proportion of the shares. Each objective's rows come in turn, and are shuffled
    anew when all were seen: an epoch is as many rows as there are, and a small set with a large share is seen more often.
    """
    chance = random.Random(plan.seed)
    epoch = -(-sum(map(len, groups)) // plan.batch)
    steps: list[list[int]] = [[] for _ in range(max(1, math.ceil(plan.epochs * epoch)))]
    first = 0
    for labels, share in zip(groups, shares, strict=True):
        size = min(len(labels), max(LEAST, round(plan.batch * share)))
        rows = _endless(labels, chance)
        for step in steps:
            step += [first + row for row in islice(rows, size)]
        first += len(labels)
    return steps


def _endless(labels: Sequence[bool], chance: random.Random) -> Iterator[int]:
    while True:
        yield from mixed(labels, chance)


def together(tasks: Sequence[Task], shares: Sequence[float], device: torch.device) -> Task:
    """One task of several, its rows counted through all of theirs: its loss is a vector, what each adds to the step's.

    Nothing is left to divide by: `before` learns what the whole step holds of each.
    """
    lengths = [len(one.sizes) for one in tasks]
    starts = [sum(lengths[:place]) for place in range(len(tasks))]
    scales = torch.zeros(len(tasks), device=device)

    def parts(rows: Sequence[int]) -> list[list[int]]:
        return [
            [row - start for row in rows if start <= row < start + length]
            for start, length in zip(starts, lengths, strict=True)
        ]

    def before(model: Any, rows: Sequence[int]) -> None:
        for place, (task, own) in enumerate(zip(tasks, parts(rows), strict=True)):
            scales[place] = shares[place] / max(1, sum(task.sizes[row] for row in own))
            if task.before is not None and own:
                task.before(model, own)

    def loss(model: Any, rows: Sequence[int]) -> torch.Tensor:
        found = [
            task.loss(model, own) if own else scales.new_zeros(()) for task, own in zip(tasks, parts(rows), strict=True)
        ]
        return torch.stack(found) * scales

    return Task(loss, [0] * sum(lengths), before)
