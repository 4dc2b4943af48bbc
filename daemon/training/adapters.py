"""The adapter that a LoRA update trains: continued from the champion's or begun anew, and how it is written.

Owns: when an adapter can be continued, its initialisation, and the bytes that it leaves. Refuses to know losses. Called
by `lora`.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from daemon.models import Ref
from daemon.transformers_model import open_weights
from policies.errors import Misconfigured, Refused

KEPT = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class Shape:
    """What an adapter is made of. `targets`: "all-linear" or names of layers, comma-separated."""

    rank: int
    alpha: int
    dropout: float
    targets: str
    rslora: bool
    dora: bool


def why_fresh(champion: Ref, depth: int, shape: Shape, linear: set[str]) -> str:
    """Why the champion's adapter can't be continued, "" when it can; `linear` are the base's linear layers."""
    if not champion.base:
        return "the champion has no adapter"
    if depth == 0:
        return "a fresh start was asked for"
    before = LoraConfig.from_pretrained(champion.folder)
    targets = _targets(shape, linear)
    for name, old, new in (
        ("rank", before.r, shape.rank),
        ("alpha", before.lora_alpha, shape.alpha),
        ("rslora", before.use_rslora, shape.rslora),
        ("dora", before.use_dora, shape.dora),
        ("targets", set(before.target_modules), targets),
    ):
        if old != new:
            return f"{name} differs: {_readable(old)} before, {_readable(new)} now"
    return ""


def opened(champion: Ref, adapter: Path | None, shape: Shape, *, device: str, quantisation: str) -> Any:
    """The champion's base with `adapter` to be trained further, or with a new one: float32 trainable parameters."""
    base = Ref(name=champion.name, folder=champion.base or champion.folder)
    model = open_weights(base, device=device, quantisation=quantisation)
    if quantisation:
        prepare: Any = peft.prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=False)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True, local_files_only=True)
    else:
        config = LoraConfig(
            r=shape.rank,
            lora_alpha=shape.alpha,
            lora_dropout=shape.dropout,
            target_modules=sorted(_targets(shape, linear_layers(model))),
            use_rslora=shape.rslora,
            use_dora=shape.dora,
            task_type="CAUSAL_LM",
        )
        try:
            model = get_peft_model(model, config)
        except ValueError as problem:
            hint = 'options.targets: "all-linear" or names of layers, comma-separated'
            raise Misconfigured(f"no adapter on these targets: {problem}", hint=hint) from problem
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def trained(model: Any) -> dict[str, torch.Tensor]:
    """A copy of what is trained, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def restore(model: Any, exact: dict[str, torch.Tensor]) -> None:
    """Put back what `trained` copied: over a quantised base TRL rounds adapters to bfloat16, where small updates
    vanish (trl#7268).
    """
    for name, parameter in model.named_parameters():
        if name in exact:
            parameter.data = exact[name]


def linear_layers(model: Any) -> set[str]:
    """Last names of the linear layers of a base (a quantised one is linear too) but its output layer.

    TRL computes log-probabilities from the output layer's weight directly: an adapter there would never be trained.
    """
    head = model.get_output_embeddings()
    kinds: list[type] = [torch.nn.Linear]
    found = {
        name.rpartition(".")[2]
        for name, layer in model.named_modules()
        if layer is not head
        and (isinstance(layer, tuple(kinds)) or type(layer).__name__ in ("Linear4bit", "Linear8bitLt"))
    }
    if not found:
        raise Misconfigured("the base has no linear layer", hint="name the layers in options.targets")
    return found


def _targets(shape: Shape, linear: set[str]) -> set[str]:
    if shape.targets == "all-linear":
        return linear
    return {name.strip() for name in shape.targets.split(",") if name.strip()}


def save(model: Any, folder: Path, base: str) -> None:
    """Write the trained adapter only: safetensors and a config with sorted keys that names its base by version.

    Raises: Refused, when a weight is not finite.
    """
    broken = [name for name, p in model.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
    if broken:
        raise Refused(f"{len(broken)} trained weights are not finite", hint="lower the learning rate")
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft, selected_adapters=["default"], save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((draft / KEPT[0]).read_text("utf-8"))
    config["base_model_name_or_path"] = base
    config = {key: sorted(value) if key == "target_modules" else value for key, value in config.items()}
    (folder / KEPT[0]).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
    (draft / KEPT[1]).replace(folder / KEPT[1])
    shutil.rmtree(draft)


def _readable(value: Any) -> str:
    return " ".join(sorted(value)) if isinstance(value, set) else str(value)
