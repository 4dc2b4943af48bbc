"""What one stage of an update is to do, whichever engine does it.

Owns: the values, and which of a way's options make a stage. Called by `lora`, `full`, and
by the engines `packed` and `stages`.
"""

from dataclasses import dataclass
from typing import Any

from daemon.training.objectives import OBJECTIVES


@dataclass(frozen=True, slots=True)
class Plan:
    """One stage: `batch` samples a step, `micro` of them at once. `beta` and `robust` are for pairs and ratings, and
    `imitate`: how much their praised or preferred answers are imitated besides.

    For answers to imitate alone: `drop`: share of a prompt's tokens that is hidden, anew every time; `hold`: share of the
    champion's own soft targets in what it already says right; `mask`: perplexity above which a token isn't learned;
    `forgotten`: share of the replayed answers that is trained on; `ewc`: strength of the pull to where weights began;
    `osf`: share of each layer's dominant directions that stay; `second`: how many times as fast an adapter's second factors
    learn as its first (Hayou et al. 2024, LoRA+, arXiv 2402.12354); `olora`: strength of the pull to directions of its own,
    where the first `older` ranks of the adapter are of earlier updates and stay.
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
    second: float = 1.0
    olora: float = 0.0
    older: int = 0

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
            second=getattr(options, "lora_plus", 1.0),
            olora=getattr(options, "olora", 0.0),
        )


def check(options: Any) -> None:
    """Whether stages can be made of a way's options; `of` takes them as they are.

    Raises: ValueError, naming the option and what would be right.
    """
    if options.batch < 2:
        raise ValueError("batch is at least 2")
    if options.micro_batch and (options.batch % options.micro_batch or options.micro_batch < 2):
        raise ValueError(f"micro_batch {options.micro_batch} is at least 2 and divides batch {options.batch}")
    if options.schedule not in ("cosine", "linear", "constant"):
        raise ValueError("schedule is cosine, linear or constant")
    if not 0 <= options.dpo_robust < 0.5 or min(options.dpo_imitate, options.kto_imitate) < 0:
        raise ValueError("dpo_robust lies in [0, 0.5), dpo_imitate and kto_imitate are at least 0")
    if not 0 <= options.sft_drop < 1 or not 0 <= options.sft_hold <= 1 or not 0 < options.merge <= 1:
        raise ValueError("sft_drop lies in [0, 1), sft_hold in [0, 1], merge in (0, 1]")
    if options.favour_new <= 0:
        raise ValueError("favour_new is above 0")
    if any(getattr(options, f"{stage}_{name}") <= 0 for stage in OBJECTIVES for name in ("epochs", "lr", "minimum")):
        raise ValueError("epochs, lr and minimum of every stage are above 0; switch a stage off with its own name")
