"""What a LoRA update can be told by a policy.

Owns: the options' meaning and which of them exclude each other. Called by `lora`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from daemon.training import plan
from daemon.training.objectives import OBJECTIVES
from daemon.training.shape import AUTO, Shape

ENGINES = ("packed", "trl")


@dataclass(frozen=True, slots=True)
class Options:
    """The adapter: `kind` is "lora", "rslora", "dora", "pissa", "prefix" or "prompt". vLLM serves no "dora", "prefix" and
    "prompt", transformers' load_adapter no "prefix" and "prompt"; PEFT loads all. A "pissa" is saved as a LoRA of twice its
    rank, over the base as it is. The kinds of LoRA have `rank`, `alpha`, `dropout` and `targets` ("all-linear" or names,
    comma-separated); `rank` and `targets` may be "auto": found by a short trial where an adapter begins fresh, the
    champion's own where it is continued. `freeze_layers` lowest layers get none. "prefix" and "prompt" have
    `virtual_tokens` and take as much of the context; they and "pissa" need engine = "packed".
    `merge_depth`: with so many updates on its adapter (0: never; below the policy's max_depth), the champion is merged
    into its unquantised base, and what is trained on that is merged as well: a version of full weights.
    `engine`: "packed", our own step (weights act in every loss, nothing is padded), or "trl", TRL's trainers, several
    times slower: the reference that ours is tested against (weights of pairs and ratings act by drawing).
    `quantisation` of the base while training: "", "nf4" or "int8". `max_length` in tokens (0: the base's context);
    longer examples are left out and counted. `batch` examples a step, `micro_batch` at once (0: all of them).
    `sft`, `dpo`, `kto` switch a stage on or off; `sft_minimum`, `dpo_minimum`, `kto_minimum` examples are needed for it;
    it runs `sft_epochs`, `dpo_epochs`, `kto_epochs` at a peak learning rate of `sft_lr`, `dpo_lr`, `kto_lr`.
    `mixed`: not one stage after the other, but all in one, every step holding rows of each objective that the data offers
    in the proportion of `sft_share`, `dpo_share` and `kto_share`, which also weigh their losses (each a mean of its own;
    the shares are scaled to a sum of 1). It has one pace, `sft_lr` and `sft_epochs`, also where there are no answers to
    imitate; an epoch is as many rows as there are; pairs and ratings are measured from the champion. It needs
    engine = "packed"; `sft_osf` then holds the whole step. Where `sft` and `imitate_positives` are on, praised and
    preferred answers are among those to imitate, held and masked as those are, in the place of `dpo_imitate` and
    `kto_imitate`.
    `dpo_beta`, `kto_beta`: strength of the pull to the reference. `dpo_robust`: share of preferences taken to be flipped.
    `dpo_imitate`, `kto_imitate`: how much preferred and praised answers are imitated besides (0: not at all; 1: as much as
    `sft` would imitate them).
    `edit_weight`: how many times as much the changed tokens of a correction count as those that the user left (1: alike;
    the correction as a whole counts the same).
    `sft_drop`: share of a prompt's tokens that SFT hides, anew every time, so that few questions, seen often, aren't
    learned by heart. `sft_hold`: share in [0, 1] of the champion's own soft targets, in the place of the bare answer, in
    answers that it already gives (above 0 it needs engine = "packed").
    These, too, are about SFT and need engine = "packed": `sft_forgotten`: share in (0, 1] of the replayed answers that are
    trained on, those that the champion is least sure of (1: all; the others cost a look each). `sft_mask`: perplexity
    under the champion above which a token isn't learned (0: all are). `sft_ewc`: strength of the pull on weights that
    replayed answers need (0: none). `sft_osf`: share in [0, 1) of the dominant directions of every adapted layer along
    which nothing moves (0: none; it needs an unquantised base).
    `favour_new`: how many times as much a new record counts as a replayed one that is as old and as trusted.
    `imitate_positives`: praised answers are imitated where there are too few ratings for KTO, and in `mixed`.
    `merge`: share in (0, 1] of the way from where a stage began to where it ended that its weights go (1: all of it).
    `slao`: the t-th update since a fresh start goes 1/sqrt(t) of the way, but for the adapter's first factors (neither it
    nor `sft_osf` goes with "pissa", "prefix" or "prompt").
    `olora`: strength of the pull of an update to directions of its own (0: none): it trains a new part of `rank` beside the
    parts before it, which stay, so the adapter's rank grows with every update. For kind = "lora" with a rank in numbers and
    engine = "packed", without `slao` and `sft_osf`.
    `lora_plus`: how many times as fast the adapter's second factors learn as its first (1: alike); above it it needs a kind
    of LoRA and engine = "packed".
    `schedule`: cosine, linear or constant, after `warmup` (share of the steps, or steps from 1 on); `weight_decay` of
    AdamW.
    `save_steps`: steps between checkpoints (0: none). `threads` of a CPU (0: all; 1 is bitwise reproducible).
    """

    engine: str = "packed"
    kind: str = "lora"
    rank: int | str = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str = "all-linear"
    freeze_layers: int = 0
    virtual_tokens: int = 16
    merge_depth: int = 0
    quantisation: str = ""
    max_length: int = 0
    batch: int = 16
    micro_batch: int = 0
    sft: bool = True
    sft_minimum: int = 1
    sft_epochs: float = 3.0
    sft_lr: float = 2e-4
    sft_drop: float = 0.0
    sft_hold: float = 0.5
    sft_forgotten: float = 1.0
    sft_mask: float = 0.0
    sft_ewc: float = 0.0
    sft_osf: float = 0.0
    dpo: bool = True
    dpo_minimum: int = 50
    dpo_epochs: float = 1.0
    dpo_lr: float = 2e-5
    dpo_beta: float = 0.1
    dpo_robust: float = 0.1
    dpo_imitate: float = 1.0
    kto: bool = True
    kto_minimum: int = 50
    kto_epochs: float = 1.0
    kto_lr: float = 2e-5
    kto_beta: float = 0.1
    kto_imitate: float = 1.0
    mixed: bool = False
    sft_share: float = 1.0
    dpo_share: float = 1.0
    kto_share: float = 1.0
    edit_weight: float = 1.0
    favour_new: float = 1.3
    imitate_positives: bool = True
    merge: float = 0.95
    slao: bool = False
    olora: float = 0.0
    lora_plus: float = 1.0
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    save_steps: int = 200
    threads: int = 0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine is one of {', '.join(ENGINES)}")
        if self.edit_weight < 1 or (self.edit_weight > 1 and self.engine == "trl"):
            raise ValueError('edit_weight is at least 1, and needs engine = "packed" above it')
        self._check_adapter()
        plan.check(self)
        if self.quantisation not in ("", "nf4", "int8"):
            raise ValueError('quantisation is "", "nf4" or "int8"')
        if not 0 < self.sft_forgotten <= 1:
            raise ValueError("sft_forgotten lies in (0, 1]")
        if (self.sft_mask and self.sft_mask <= 1) or self.sft_ewc < 0 or not 0 <= self.sft_osf < 1:
            raise ValueError("sft_mask is 0 or above 1, sft_ewc at least 0, sft_osf lies in [0, 1)")
        held = self.sft_hold or self.sft_forgotten < 1 or self.sft_mask or self.sft_ewc or self.sft_osf
        if held and self.engine == "trl":
            hint = 'need engine = "packed"; for "trl" write sft_hold = 0.0'
            raise ValueError(f"sft_hold, sft_forgotten, sft_mask, sft_ewc and sft_osf {hint}")
        self._check_shares()

    def shares(self, names: Iterable[str]) -> dict[str, float]:
        """The shares of these objectives where they come together; they sum to 1."""
        found = {name: float(getattr(self, f"{name}_share")) for name in names}
        return {name: share / sum(found.values()) for name, share in found.items()}

    def _check_shares(self) -> None:
        if any(getattr(self, f"{name}_share") <= 0 for name in OBJECTIVES):
            raise ValueError("the share of every objective is above 0; switch one off with its own name")
        if self.mixed and self.engine != "packed":
            raise ValueError('mixed needs engine = "packed"')

    def _check_adapter(self) -> None:
        prompted = Shape.of(self).prompted
        if self.merge_depth < 0 or (self.merge_depth and prompted):
            raise ValueError("merge_depth is at least 0, and 0 for a prefix or prompt")
        if (prompted or self.kind == "pissa") and self.engine != "packed":
            raise ValueError(f'kind = "{self.kind}" needs engine = "packed"')
        if (self.slao or self.sft_osf) and (prompted or self.kind == "pissa"):
            raise ValueError(
                f'slao and sft_osf look at the factors of a LoRA: kind = "{self.kind}" has none of its own'
            )
        if self.olora < 0 or (self.olora and not self._grows()):
            hint = 'kind = "lora", a rank in numbers, engine = "packed", and neither slao nor sft_osf'
            raise ValueError(f"olora is at least 0, and above it needs {hint}")
        if self.lora_plus < 1 or (self.lora_plus > 1 and (prompted or self.engine != "packed")):
            raise ValueError('lora_plus is at least 1, and above it needs a kind of LoRA and engine = "packed"')
        if self.kind == "pissa" and self.quantisation:
            raise ValueError('kind = "pissa" takes parts out of the weights: it needs quantisation = ""')

    def _grows(self) -> bool:
        """Whether an adapter of this kind can be given another part at every update."""
        plain = self.kind == "lora" and self.rank != AUTO and self.engine == "packed"
        return plain and not (self.slao or self.sft_osf)
