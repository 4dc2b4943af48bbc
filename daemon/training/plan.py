"""What one stage of an update is to do, whichever engine does it.

Owns: the values. Called by `lora`, and by the engines `packed` and `stages`.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Plan:
    """One stage: `batch` samples a step, `micro` of them at once. `beta` and `robust` are for pairs and ratings, and
    `imitate`: how much their praised or preferred answers are imitated besides.

    For answers to imitate alone: `drop`: share of a prompt's tokens that is hidden, anew every time; `hold`: share of the
    champion's own soft targets in what it already says right; `mask`: perplexity above which a token isn't learned;
    `forgotten`: share of the replayed answers that is trained on; `ewc`: strength of the pull to where weights began;
    `osf`: share of each layer's dominant directions that stay.
    """

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
    imitate: float = 0.0
    drop: float = 0.0
    hold: float = 0.0
    mask: float = 0.0
    forgotten: float = 1.0
    ewc: float = 0.0
    osf: float = 0.0

    @classmethod
    def of(cls, options: Any, name: str, samples: int, micro: int, *, seed: int, gpu: bool) -> "Plan":
        """The stage `name` of a way's options on so many samples; a step never holds more than there are."""
        batch = min(options.batch, max(2, samples))
        micro = min(micro, batch)
        return cls(
            name=name,
            epochs=getattr(options, f"{name}_epochs"),
            lr=getattr(options, f"{name}_lr"),
            batch=batch - batch % micro,
            micro=micro,
            warmup=options.warmup,
            schedule=options.schedule,
            weight_decay=options.weight_decay,
            beta=getattr(options, f"{name}_beta", 0.0),
            robust=options.dpo_robust,
            save_steps=options.save_steps,
            seed=seed,
            gpu=gpu,
            imitate=getattr(options, f"{name}_imitate", 0.0),
            drop=getattr(options, "sft_drop", 0.0),
            hold=getattr(options, "sft_hold", 0.0),
            mask=getattr(options, "sft_mask", 0.0),
            forgotten=getattr(options, "sft_forgotten", 1.0),
            ewc=getattr(options, "sft_ewc", 0.0),
            osf=getattr(options, "sft_osf", 0.0),
        )
