"""The engine "trl": the three objectives on TRL: answers to imitate (SFT), pairs to prefer (DPO), ratings (KTO).

Owns: the trainers' settings, and what TRL is kept from doing (its traps are named where they are avoided). Refuses to
know jobs. Called by `lora`, which imports this file only where it is asked for: TRL takes ten seconds. `packed` does the
same several times faster and is tested against this.

All trainers get token ids that we laid out: TRL's own preparation would add tokens, cut sequences and drop weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from daemon.decoding import left_padded
from daemon.training import adapters, resume
from daemon.training.loop import Fitted
from daemon.training.meter import Meter
from daemon.training.objectives import imitation
from daemon.training.plan import Plan
from daemon.training.tokens import Sample, drawn, interleaved
from daemon.transformers_model import answer_logits
from policies.errors import Refused

IGNORED = -100


class WeightedSFT(SFTTrainer):
    """SFT whose loss is the mean over answer tokens of weight x nats; TRL's own drops weights (trl#5613, #5761)."""

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: ARG002 (the Trainer's signature)
        num_items_in_batch: Any = None,
    ) -> Any:
        """Weighted cross-entropy; `num_items_in_batch` counts answer tokens over all accumulation steps."""
        longest = int(inputs["longest"])
        logits = answer_logits(model, inputs["input_ids"], inputs["attention_mask"], longest)
        labels = inputs["labels"][:, -longest:]
        nats = cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(labels.shape)
        tokens = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return (nats * inputs["weight"].unsqueeze(-1)).sum() / tokens


class TokenisedDPO(DPOTrainer):
    """DPO on our token ids; its reference is the adapter as it was at the start (a frozen copy that TRL adds)."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


class TokenisedKTO(KTOTrainer):
    """KTO on our token ids, with completions already rotated within each micro-batch for its KL term; `imitate`: what
    praised answers are imitated with besides (`imitation.shares`).
    """

    imitate = 0.0

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def compute_loss(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        """TRL's own, and a second look at what was praised."""
        found = super().compute_loss(model, inputs, *more, **named)  # type: ignore[no-untyped-call]
        if not self.imitate:
            return found
        tokens, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
        answers = inputs["completion_mask"].to(model.device)[:, 1:].bool()
        labels = tokens[:, 1:].masked_fill(~answers, IGNORED)
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1]
        nats = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
        liked = torch.as_tensor(inputs["label"], device=model.device).float()
        return found + imitation.loss(nats.view(labels.shape).sum(-1), liked, strength=self.imitate) / len(liked)


class Watcher(TrainerCallback):
    """Tells progress, keeps the losses, and stops a run whose loss is no number."""

    def __init__(self, meter: Meter, tokens: int) -> None:
        self.meter, self.tokens = meter, tokens
        self.losses: list[float] = []
        self.began = -1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """A line at most twice a second; tokens are the set's mean."""
        self.began = state.global_step if self.began < 0 else self.began
        read = self.tokens * (state.global_step - self.began) // max(1, state.max_steps)
        loss = self.losses[-1] if self.losses else None
        self.meter.tell(state.global_step, state.max_steps, tokens=read, loss=loss)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Raises: Refused, when the loss is not finite."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            hint = "lower the learning rate, or look for broken records in the window"
            raise Refused(f"the loss became {loss} at step {state.global_step}", hint=hint)
        self.losses.append(float(loss))


@dataclass(frozen=True, slots=True)
class Collate:
    """SFT rows as tensors: left-padded, so that all answers end at the right edge.

    `drop`: share of a prompt's tokens that are hidden from attention, drawn anew at every look (word dropout: Iyyer et
    al. 2015, ACL P15-1162), but never one of `kept`, the template's own. An update sees few questions many times; so it
    can't learn them by heart. From torch's generator, whose state a checkpoint keeps.
    """

    pad: int
    drop: float = 0.0
    kept: tuple[int, ...] = ()

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """(rows, longest) ids, mask, labels; (rows,) weights; the longest answer."""
        tokens, mask = left_padded([row["input_ids"] for row in rows], self.pad, "cpu")
        labels = torch.full_like(tokens, IGNORED)
        for number, row in enumerate(rows):
            labels[number, -row["answer"] :] = tokens[number, -row["answer"] :]
        if self.drop:
            own = torch.isin(tokens, torch.tensor(self.kept, dtype=tokens.dtype)) | (labels != IGNORED)
            mask[(torch.rand(tokens.shape) < self.drop) & ~own] = 0
        weight = torch.tensor([row["weight"] for row in rows])
        longest = torch.tensor(max(row["answer"] for row in rows))
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels, "weight": weight, "longest": longest}


def fit(model: Any, tokenizer: Any, samples: Sequence[Sample], plan: Plan, folder: Path, meter: Meter) -> Fitted:
    """Train `model` in place on one stage; continues from the newest checkpoint in `folder`.

    Raises: Refused, when the loss is not finite.
    """
    exact = adapters.trained(model)
    trainer = {"sft": sft, "dpo": dpo, "kto": kto}[plan.name](model, tokenizer, samples, plan, folder)
    adapters.restore(trainer.model, exact)
    watcher = Watcher(meter, round(sum(one.cost for one in samples) * plan.epochs))
    before = resume.newest(folder)
    steps = run(trainer, watcher, before)
    first, last = (watcher.losses[0], watcher.losses[-1]) if watcher.losses else (None, None)
    return Fitted(steps, watcher.tokens, loss_first=first, loss_last=last, resumed=before is not None)


def sft(model: Any, tokenizer: Any, samples: Sequence[Sample], plan: Plan, folder: Path) -> Any:
    """A trainer on answers to imitate, every one by its weight."""
    rows = [
        {"input_ids": s.prompt + s.answer, "answer": len(s.answer), "weight": s.weight, "length": s.length}
        for s in samples
    ]
    settings = SFTConfig(
        **common(plan, folder),
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length",
    )
    return WeightedSFT(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=Collate(tokenizer.pad_token_id, plan.drop, tuple(tokenizer.added_tokens_decoder)),
    )


def dpo(model: Any, tokenizer: Any, samples: Sequence[Sample], plan: Plan, folder: Path) -> Any:
    """A trainer on pairs; `robust` is the share of labels taken to be flipped (Chowdhury et al., arXiv 2403.00409)."""
    rows = [
        {"prompt_ids": s.prompt, "chosen_ids": s.answer, "rejected_ids": s.rejected} for s in drawn(samples, plan.seed)
    ]
    settings = DPOConfig(
        **common(plan, folder),
        max_length=None,
        beta=plan.beta,
        loss_type=["robust" if plan.robust else "sigmoid", *(["sft"] if plan.imitate else [])],
        loss_weights=[1.0, plan.imitate] if plan.imitate else None,
        label_smoothing=plan.robust,
    )
    return TokenisedDPO(model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def kto(model: Any, tokenizer: Any, samples: Sequence[Sample], plan: Plan, folder: Path) -> Any:
    """A trainer on ratings, both labels spread over every batch, the rarer one weighed up (arXiv 2402.01306, eq. 8)."""
    samples = interleaved(drawn(samples, plan.seed), plan.epochs, plan.batch, plan.seed)
    good = sum(one.label for one in samples)
    rows = [
        {"prompt_ids": s.prompt, "completion_ids": s.answer, "label": s.label, "KL_completion_ids": other.answer}
        for s, other in zip(samples, _rotated(samples, plan.micro), strict=True)
    ]
    settings = KTOConfig(
        **{**common(plan, folder), "num_train_epochs": 1},
        max_length=None,
        beta=plan.beta,
        desirable_weight=max(1.0, (len(samples) - good) / max(1, good)),
        undesirable_weight=max(1.0, good / max(1, len(samples) - good)),
        train_sampling_strategy="sequential",
    )
    trainer = TokenisedKTO(
        model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.imitate = plan.imitate * len(samples) / max(1, sum(len(one.answer) for one in samples if one.label))
    return trainer


def run(trainer: Any, watcher: Watcher, checkpoint: Path | None) -> int:
    """Train to the end, from a checkpoint where there is one; the steps that were taken in all.

    Raises: Refused, when the loss is not finite.
    """
    trainer.add_callback(watcher)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return int(trainer.state.global_step)


def _rotated(samples: Sequence[Sample], micro: int) -> list[Sample]:
    """Each sample's predecessor within its micro-batch: the mismatched answers of KTO's KL term."""
    groups = [samples[start : start + micro] for start in range(0, len(samples), micro)]
    return [one for group in groups for one in (group[-1], *group[:-1])]


def common(plan: Plan, folder: Path) -> dict[str, Any]:
    """Settings of all three trainers. Defaults that would raise on a CPU, phone home or write reports are switched off."""
    return {
        "output_dir": str(folder),
        "use_cpu": not plan.gpu,
        "bf16": plan.gpu,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": plan.micro,
        "gradient_accumulation_steps": max(1, plan.batch // plan.micro),
        "num_train_epochs": plan.epochs,
        "learning_rate": plan.lr,
        "warmup_steps": plan.warmup,
        "lr_scheduler_type": plan.schedule,
        "weight_decay": plan.weight_decay,
        "seed": plan.seed,
        "data_seed": plan.seed,
        "save_strategy": "steps" if plan.save_steps else "no",
        "save_steps": plan.save_steps or 500,
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
