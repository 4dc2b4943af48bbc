"""The adapter that an update trains: continued from the champion's or begun anew, and how it is written.

Owns: the kinds of adapters, when one can be continued, its initialisation, and the bytes that it leaves: PEFT's own
files, which load over the unchanged base. Refuses to know losses. Called by `lora`.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from daemon.models import Ref
from daemon.registry import NAME
from daemon.training.shape import AUTO, Shape
from daemon.transformers_model import open_weights
from policies.errors import Misconfigured, Refused

KEPT = ("adapter_config.json", "adapter_model.safetensors")


def why_fresh(champion: Ref, depth: int, shape: Shape, linear: set[str], base: str = "") -> str:
    """Why the champion's adapter can't be continued, "" when it can; `linear` are the base's linear layers.

    Raises: Refused, when the adapter says that it belongs to another version than `base`: it can't be loaded at all.
    """
    if not champion.base:
        return "the champion has no adapter"
    if depth == 0:
        return "a fresh start was asked for"
    before: Any = PeftConfig.from_pretrained(champion.folder)
    trained_on = str(before.base_model_name_or_path)
    if base and NAME.fullmatch(trained_on) and trained_on != base:
        hint = "an adapter fits only the exact base that it was trained on: restore that one, or roll back"
        raise Refused(f"{champion.name} is an adapter of {trained_on}, and its base here is {base}", hint=hint)
    for name, old, new in _differences(before, _kind(before, Path(champion.folder)), shape, linear):
        if old != new:
            return f"{name} differs: {_readable(old)} before, {_readable(new)} now"
    return ""


def _differences(before: Any, kind: str, shape: Shape, linear: set[str]) -> Iterator[tuple[str, Any, Any]]:
    """What must be alike, before and now."""
    yield "kind", kind, shape.kind
    if shape.prompted:
        yield "virtual_tokens", before.num_virtual_tokens, shape.virtual_tokens
        return
    parts = 2 if shape.kind == "pissa" else 1  # what PiSSA began with is kept beside what it came to
    if shape.grows:
        parts = max(1, before.r // shape.rank)
    if shape.rank:
        yield "rank", before.r // parts, shape.rank
    yield "alpha", before.lora_alpha // parts, shape.alpha
    if shape.targets != AUTO:
        yield "targets", set(before.target_modules), _targets(shape, linear)
    yield "freeze_layers", min(before.layers_to_transform or [0]), shape.frozen


def shape_of(folder: Path, shape: Shape) -> Shape:
    """The shape with the rank and the targets of a saved adapter of its kind."""
    config: Any = PeftConfig.from_pretrained(str(folder))
    parts = 2 if shape.kind == "pissa" else 1
    rank = shape.rank if shape.grows else config.r // parts
    return replace(shape, rank=rank, targets=",".join(sorted(config.target_modules)))


def _kind(config: Any, folder: Path) -> str:
    """The kind of a saved adapter; that one began as PiSSA stands in its weights' metadata."""
    kind = {"PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}.get(config.peft_type.value, "lora")
    if kind != "lora":
        return kind
    with safe_open(folder / KEPT[1], "pt") as file:
        kind = (file.metadata() or {}).get("kind", kind)
    return "dora" if config.use_dora else "rslora" if config.use_rslora else kind


def opened(champion: Ref, adapter: Path | None, shape: Shape, *, device: str, quantisation: str) -> Any:
    """The champion's base with `adapter` to be trained further, or with a new one: float32 trainable parameters.

    Raises: Misconfigured, when the base can't have such an adapter.
    """
    base = Ref(name=champion.name, folder=champion.base or champion.folder)
    model = open_weights(base, device=device, quantisation=quantisation)
    if quantisation:
        prepare: Any = peft.prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=False)
        _trainable(model)
    if shape.prompted:
        model = _prompted(model, shape)
        if adapter is not None:  # from_pretrained refuses to train one further
            peft.set_peft_model_state_dict(model, load_file(adapter / KEPT[1]))
    elif adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True, local_files_only=True)
    else:
        model = _lora(model, shape)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _trainable(model: Any) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew where it reads without learning: on a CPU with AVX512-BF16 it does,
    into a layout whose product has no backward, and what was packed stays so.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _lora(model: Any, shape: Shape) -> Any:
    """A fresh adapter on linear layers. PiSSA takes the largest singular parts out of the weights and trains those (Meng
    et al. 2024, arXiv 2404.02948).
    """
    layers = int(model.config.get_text_config().num_hidden_layers)
    if shape.frozen >= layers:
        raise Misconfigured(f"freeze_layers = {shape.frozen}", hint=f"the base has {layers} layers: leave one to train")
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        lora_dropout=shape.dropout,
        target_modules=sorted(_targets(shape, linear_layers(model))),
        layers_to_transform=list(range(shape.frozen, layers)) if shape.frozen else None,
        use_rslora=shape.kind == "rslora",
        use_dora=shape.kind == "dora",
        init_lora_weights="pissa" if shape.kind == "pissa" else True,
        task_type="CAUSAL_LM",
    )
    try:
        made = get_peft_model(model, config)
    except ValueError as problem:
        hint = 'options.targets: "all-linear" or names of layers, comma-separated'
        raise Misconfigured(f"no adapter on these targets: {problem}", hint=hint) from problem
    least = min(p.shape[0] for name, p in made.named_parameters() if "lora_A" in name)
    if least < shape.rank:
        raise Misconfigured(f"rank {shape.rank} is too large for PiSSA", hint=f"a target has only {least} dimensions")
    return made


def _prompted(model: Any, shape: Shape) -> Any:
    """A fresh prefix (Li and Liang 2021, arXiv 2101.00190) or prompt (Lester et al. 2021, arXiv 2104.08691).

    Either begins as what the base makes of some of its own tokens, drawn by torch's generator: from random numbers both
    train badly, and from equal ones all virtual tokens would stay alike.
    """
    text = model.config.get_text_config()
    cache: Any = DynamicCache(config=text)
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        hint = "its layers don't all look at everything: take a kind of LoRA"
        raise Misconfigured(f"this base can't have a {shape.kind}", hint=hint)
    drawn = torch.randint(text.vocab_size, (1, shape.virtual_tokens)).to(model.device)
    more: Any = {"num_virtual_tokens": shape.virtual_tokens, "task_type": "CAUSAL_LM"}
    if shape.kind == "prompt":
        made: Any = get_peft_model(model, PromptTuningConfig(**more))
        weights = model.get_input_embeddings()(drawn)[0]
        made.prompt_encoder["default"].embedding.weight.data.copy_(weights)
        return made
    with torch.no_grad():
        model(input_ids=drawn, past_key_values=cache, use_cache=True)
    made = get_peft_model(model, PrefixTuningConfig(**more))
    peft.initialize_kv_prefix_from_past_key_values(made, past_key_values=cache)
    return made


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


def save(
    model: Any, folder: Path, base: str, kind: str = "lora", start: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write the trained adapter only: safetensors and a config with sorted keys that names its base by version.

    `start`: what was `trained` before the first step. A fresh PiSSA took that out of the base's weights: what is written
    is what it came to less what it began with, a LoRA of twice the rank over the base as it is.
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
    if kind == "pissa":
        weights = load_file(draft / KEPT[1])
        if config["init_lora_weights"] == "pissa":
            weights = _over_whole(weights, start or {})
            config |= {"init_lora_weights": True, "r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}
        save_file(weights, draft / KEPT[1], {"format": "pt", "kind": kind})
    if kind == "dora":  # transformers passes over the magnitudes under the name that PEFT gives them; PEFT takes either
        weights = load_file(draft / KEPT[1])
        weights = {f"{name}.weight" if name.endswith("magnitude_vector") else name: w for name, w in weights.items()}
        save_file(weights, draft / KEPT[1], {"format": "pt"})
    config["base_model_name_or_path"] = base
    config = {key: sorted(value) if key == "target_modules" else value for key, value in config.items()}
    (folder / KEPT[0]).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
    (draft / KEPT[1]).replace(folder / KEPT[1])
    shutil.rmtree(draft)


def _over_whole(weights: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """BA - B0 A0 as one product: [B, -B0] and [A; A0]."""
    begun = {name.replace(".default", ""): value.cpu() for name, value in start.items()}
    return {
        name: torch.cat([value, begun[name]], 0) if "lora_A" in name else torch.cat([value, -begun[name]], 1)
        for name, value in weights.items()
    }


def _readable(value: Any) -> str:
    return " ".join(sorted(value)) if isinstance(value, set) else str(value)
