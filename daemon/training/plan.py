"""What one stage of an update is to do, whichever engine does it.

Owns: the values. Called by `lora`, and by the engines `packed` and `stages`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """One stage: `batch` samples a step, `micro` of them at once. `beta` and `robust` are for pairs and ratings."""

    name: str
    epochs: float
    lr: float
    batch: int
    micro: int
    warmup: float
    schedule: str
    weight_decay: float
    beta: float
    robust: float
    save_steps: int
    seed: int
    gpu: bool
