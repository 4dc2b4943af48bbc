"""Goldens: what the version answers to the items that a person accepted, scored by each item's check.

Owns: the names of its measurements, and that items with the check `judge` are put to the judge. Refuses to know margins.
Called by `daemon.evaluation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from daemon.probes import Item, Probed, judge, scored
from daemon.probes.judge import Options as JudgeOptions
from policies.model import Measurement

LOOSER = {"refusals": "changed", "judge": judge.LOOSER}


@dataclass(frozen=True)
class Options:
    """`refusals`: phrases of this product that open a refusal, beside the usual ones.

    `judge`: the model that items with the check `judge` are put to, see `daemon.probes.judge.Options`.
    """

    refusals: tuple[str, ...] = ()
    judge: JudgeOptions = field(default_factory=JudgeOptions)


def measure(version: Probed, items: Sequence[Item], options: Options) -> list[Measurement]:
    """One score in [0, 1] an item; where a judge gave it also `goldens_judge_error`, the share of the labelled answers
    on which it errs, and `goldens_judge_labels`, how many those are.

    Raises: Refused where an item's check is not valid; as `daemon.probes.judge` where one is asked.
    """
    plain = [item for item in items if item.check != "judge"]
    put = [item for item in items if item.check == "judge"]
    return [*scored("goldens", version, plain, options.refusals), *(_judged(version, put, options) if put else ())]


def _judged(version: Probed, items: Sequence[Item], options: Options) -> list[Measurement]:
    found, errors = [], []
    asked = judge.opened(options.judge)
    with asked.client:
        for item, answer in zip(items, version.answer(items), strict=True):
            found.append(version.measured("goldens", item, asked.score(item.messages, item.value, answer)))
            errors.append(version.measured("goldens_judge_error", item, asked.error(item.messages, item.value)))
            errors.append(version.measured("goldens_judge_labels", item, float(len(judge.labelled(item.value)))))
    return found + errors
