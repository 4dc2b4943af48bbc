"""Ratings: praised answers gain on the reference, rejected ones lose, each measured from a common zero.

Called by `daemon.training.packed`. Ethayarajh et al. 2024 (arXiv 2402.01306), equations 7 and 8.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from daemon.training import reference
from daemon.training.layout import Document
from daemon.training.objectives import imitation
from daemon.training.task import Setting, Task
from daemon.training.tokens import Sample, partners


def zero(gains: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The point from which gains are judged: KL(policy || reference) estimated on answers to other prompts, at least 0.

    (rows,) gains in nats of the mismatched answers, (rows,) weights -> scalar.
    """
    return ((gains * weights).sum() / weights.sum()).clamp(min=0).detach()


def loss(
    gains: torch.Tensor, liked: torch.Tensor, weights: torch.Tensor, origin: torch.Tensor, *, beta: float
) -> torch.Tensor:
    """Sum over ratings of weight x loss: (rows,) gains of the rated answers over the reference in nats, (rows,) which
    were praised, (rows,) weights, the scalar `zero` -> scalar.
    """
    sign = torch.where(liked, 1.0, -1.0)
    return ((1 - torch.sigmoid(beta * sign * (gains - origin))) * weights).sum()


def balanced(weights: Sequence[float], liked: Sequence[bool], replayed: Sequence[bool]) -> list[float]:
    """The weights with the lighter label's raised until both weigh the same, within new and within replayed ratings: else
    old praise would raise the complaints about something new above its praise. Where one of the two has but one label,
    it is done over all together.
    """
    rows = [*zip(weights, liked, replayed, strict=True)]
    apart = all(
        len({yes for yes, mine in zip(liked, replayed, strict=True) if mine is old}) != 1 for old in (True, False)
    )
    sums: dict[tuple[bool, bool], float] = defaultdict(float)
    for weight, yes, old in rows:
        sums[yes, old and apart] += weight
    return [weight * max(1.0, sums[not yes, old and apart] / sums[yes, old and apart]) for weight, yes, old in rows]


@dataclass(slots=True)
class Rated:
    """Rated answers as a step reads them, and the step's zero, which is estimated on all of its rows by answers to other
    prompts. `known`: (samples, 2) reference's nats of the rated and the other answer; `step`: the rows of a step whose
    zero isn't known yet.
    """

    samples: Sequence[Sample]
    others: Sequence[Sequence[int]]
    setting: Setting
    known: torch.Tensor
    plain: torch.Tensor
    zero: torch.Tensor
    step: list[int] = field(default_factory=list)

    def begin(self, _: Any, rows: Sequence[int]) -> None:
        """A step of these rows comes."""
        self.step[:] = rows

    def gains(self, model: Any, rows: Sequence[int]) -> torch.Tensor:
        """(rows,) nats that rated answers gained on the reference, the step's zero having been found: with them where all
        rows come at once, so that no prompt is read twice.
        """
        if rows != self.step:
            if self.step:
                self._estimate(model, len(rows))
            alone = [(self.samples[row].prompt, [self.samples[row].answer]) for row in rows]
            return self.known[rows, 0] - self._nats(model, alone)
        both = [(self.samples[row].prompt, [self.samples[row].answer, self.others[row]]) for row in rows]
        gains = self.known[rows] - self._nats(model, both, [True, False] * len(rows)).view(-1, 2)
        self._found(rows, gains[:, 1])
        return gains[:, 0]

    @torch.no_grad()
    def _estimate(self, model: Any, micro: int) -> None:
        rows = [*self.step]  # as many at once as the step has room for: fewer, where a GPU had none for all
        documents: list[Document] = [(self.samples[row].prompt, [self.others[row]]) for row in rows]
        parts = [documents[start : start + micro] for start in range(0, len(rows), micro)]
        self._found(rows, self.known[rows, 1] - torch.cat([self._nats(model, part) for part in parts]))

    def _found(self, rows: Sequence[int], gains: torch.Tensor) -> None:
        self.zero.copy_(zero(gains, self.plain[rows]))
        self.step.clear()

    def _nats(self, model: Any, documents: Sequence[Document], learned: Sequence[bool] | None = None) -> torch.Tensor:
        return reference.summed(self.setting.read(model, documents, learned=learned), documents)


def task(samples: Sequence[Sample], setting: Setting) -> Task:
    """Ratings, divided by their number."""
    others, place = partners(samples), setting.device
    labels, plain = [one.label for one in samples], [one.weight for one in samples]
    known = setting.ask([(one.prompt, [one.answer, other]) for one, other in zip(samples, others, strict=True)])
    weights = torch.tensor(balanced(plain, labels, [one.replayed for one in samples]), device=place)
    praise = torch.tensor(imitation.shares(plain, [len(one.answer) for one in samples], labels), device=place)
    liked = torch.tensor(labels, device=place)
    rated = Rated(
        samples,
        others,
        setting,
        torch.tensor(known, device=place),
        torch.tensor(plain, device=place),
        torch.zeros((), device=place),
    )

    def summed(model: Any, rows: Sequence[int]) -> torch.Tensor:
        gains = rated.gains(model, rows)
        judged = loss(gains, liked[rows], weights[rows], rated.zero, beta=setting.plan.beta)
        nats = rated.known[rows, 0] - gains
        return judged + imitation.loss(nats, praise[rows], strength=setting.plan.imitate)

    return Task(summed, [1] * len(samples), rated.begin)
