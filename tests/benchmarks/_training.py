"""What both benchmarks of training share: a Llama built on the spot, samples of mixed length, and TRL's trainers on them.

Owns: shapes, samples, and how TRL is set. Refuses to know what is measured. Called by `training_equal` and
`training_speed`.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tiny  # first: it sets the environment that transformers reads

# isort: split
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.trainer_callback import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.kto_config import KTOConfig
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from daemon.models import Ref
from daemon.training.adapters import opened
from daemon.training.plan import Plan
from daemon.training.shape import Shape
from daemon.training.stages import IGNORED, TokenisedDPO, TokenisedKTO, common
from daemon.training.tokens import Sample, partners

OBJECTIVES = ("sft", "dpo", "kto")
LORA = Shape()


@dataclass(frozen=True)
class World:
    """A model's sizes, and how long its texts are: lognormal, `least` to `most` tokens, `median` in the middle."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    least: int = 16
    median: int = 64
    most: int = 256


SMALL = World(hidden=64, layers=2, heads=4, kv_heads=4, ffn=128, vocabulary=512)
MEDIUM = World(hidden=256, layers=4, heads=8, kv_heads=8, ffn=704, vocabulary=16_000)
LARGE = World(2048, 22, 32, 4, 5632, 32_000, least=64, median=1024, most=4096)
HUGE = World(4096, 32, 32, 8, 14_336, 128_256, least=64, median=1024, most=4096)


def build(world: World, folder: Path, seed: int) -> Ref:
    """Write an untrained model of these sizes, with the tests' tokenizer: token ids are drawn, not written."""
    ref = tiny.build(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=world.vocabulary,
        hidden_size=world.hidden,
        intermediate_size=world.ffn,
        num_hidden_layers=world.layers,
        num_attention_heads=world.heads,
        num_key_value_heads=world.kv_heads,
        max_position_embeddings=2 * world.most,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    kind = torch.float32 if world.hidden < LARGE.hidden else torch.bfloat16
    LlamaForCausalLM(config).to(kind).save_pretrained(folder)
    return ref


def samples(world: World, count: int, seed: int) -> list[Sample]:
    """Prompts, answers and worse answers of drawn tokens; every second one is praised. All weigh 1."""
    chance = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [chance.randrange(5, world.vocabulary) for _ in range(count)]

    made = []
    for number in range(count):
        whole = min(world.most, max(world.least, round(chance.lognormvariate(math.log(world.median), 0.7))))
        answer = max(3, round(whole * chance.uniform(0.2, 0.6)))
        worse = max(3, min(world.most - whole + answer, round(answer * chance.uniform(0.6, 1.5))))
        made.append(
            Sample(tokens(whole - answer), [*tokens(answer - 1), 1], [*tokens(worse - 1), 1], number % 2 == 0, 1.0)
        )
    return made


def model(ref: Ref, seed: int) -> Any:
    """The model with a fresh adapter whose second factor isn't zero, so that every factor has a gradient."""
    made = fresh(ref, seed)
    nudge(made, seed)
    return made


def fresh(ref: Ref, seed: int, device: str = "cpu") -> Any:
    """The model with an adapter as training finds it."""
    torch.manual_seed(seed)
    return opened(ref, None, LORA, device=device, quantisation="").train()


def nudge(model: Any, seed: int, size: float = 0.2) -> None:
    """Move the trained adapter a little, so that it isn't its own reference any more."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ".default" in name:
                parameter.add_(size * torch.randn(parameter.shape, generator=chance).to(parameter.device))


def quiet(trainer: Any) -> Any:
    """The trainer without its lines of metrics."""
    trainer.remove_callback(PrinterCallback)
    return trainer


def trainer(model: Any, tokenizer: Any, rows: Sequence[Sample], plan: Plan, folder: Path, **more: Any) -> Any:
    """TRL's own trainer (its loss, its collator) on our token ids; `more` are its settings over what a CPU needs."""
    settings = {**common(plan, folder), "max_length": None, **more}
    data = Dataset.from_list(columns(plan.name, rows, labelled=not more.get("packing")))
    if plan.name == "sft":
        settings = {"completion_only_loss": True, **settings}
        if not settings.get("packing"):
            settings["dataset_kwargs"] = {"skip_prepare_dataset": True}
        config = SFTConfig(**settings)
        return quiet(SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer))
    if plan.name == "dpo":
        config = DPOConfig(**settings, beta=plan.beta, loss_type=["robust"], label_smoothing=plan.robust)
        return quiet(TokenisedDPO(model=model, args=config, train_dataset=data, processing_class=tokenizer))
    config = KTOConfig(**settings, beta=plan.beta, train_sampling_strategy="sequential")
    return quiet(TokenisedKTO(model=model, args=config, train_dataset=data, processing_class=tokenizer))


def columns(name: str, rows: Sequence[Sample], *, labelled: bool) -> list[dict[str, Any]]:
    """Rows as TRL's collators take them; `labelled`: as its own preparation would leave them."""
    if name == "sft" and labelled:
        return [{"input_ids": s.prompt + s.answer, "labels": [IGNORED] * len(s.prompt) + s.answer} for s in rows]
    if name == "sft":
        return [
            {"input_ids": s.prompt + s.answer, "completion_mask": [0] * len(s.prompt) + [1] * len(s.answer)}
            for s in rows
        ]
    if name == "dpo":
        return [{"prompt_ids": s.prompt, "chosen_ids": s.answer, "rejected_ids": s.rejected} for s in rows]
    return [
        {"prompt_ids": s.prompt, "completion_ids": s.answer, "label": s.label, "KL_completion_ids": other}
        for s, other in zip(rows, partners(rows), strict=True)
    ]
