"""What an update is after, one file each, with the formula and what it reads.

Owns: the contract and the whitelist of names. Refuses to know the order of rows, optimisers and any heavy library. Called
by `packed` (tasks) and the options of the methods (names). `edit` is no objective: it says which tokens of a correction
weigh more in `sft`.

A file offers `loss(...)`, a pure function from log-likelihoods and weights to a scalar, and `task(samples, setting)`, the
same over rows of samples: which documents are read, and what is asked of the reference (`setting.ask`, before the first
step; answers to imitate need none).

Every loss is a sum over its rows, in nats: the loop divides it by what the whole step holds (answer tokens, pairs or
ratings), so that neither the micro-batch nor the lengths within it change a gradient. Weights are scaled to a mean of 1
over the set (`tokens.evened`): a record that weighs 2 then pulls like the same record twice.
"""

import importlib
from typing import Any

OBJECTIVES = ("sft", "dpo", "kto")  # in the order of their stages


def load(name: str) -> Any:
    """The objective of that name. Raises: ValueError, when it isn't one of ours."""
    if name not in OBJECTIVES:
        raise ValueError(f"an objective is one of {', '.join(OBJECTIVES)}, not {name!r}")
    return importlib.import_module(f"daemon.training.objectives.{name}")
