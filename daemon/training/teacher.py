"""Full weights out of versions: an adapter merged into its base, a wider copy that says the same, a copied folder.

Owns: surgery on weights and which files of a folder are a model's. Refuses to know losses. Called by `distill`, `lora`
and `full`.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from daemon.artifact import TEMPLATE, TOKENIZER
from daemon.decoding import virtual_tokens
from daemon.models import Ref
from daemon.transformers_model import open_weights, tokenizer_folder
from policies.errors import Misconfigured, Refused

FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    *TOKENIZER,
    TEMPLATE,
)


def merged(ref: Ref) -> Any:
    """A version's full weights in float32 on the CPU, its adapter merged into its base; all of them trainable.

    Raises: Misconfigured; Refused, when its adapter is no change of weights.
    """
    model = open_weights(ref)
    if virtual_tokens(model):
        hint = "an update of a kind of LoRA, without merge_depth, begins fresh, and can be merged later"
        raise Refused(f"{ref.name} stands on a prefix or prompt, which can't be merged into weights", hint=hint)
    if ref.base:
        model = model.merge_and_unload()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def widened(model: Any, width: int, seed: int) -> Any:
    """The same function with feed-forward layers of `width`: new rows are drawn, their columns on the way out are 0.

    Net2Net's way to grow (Chen et al. 2016, arXiv 1511.05641), for gated layers (Llama, Qwen, Mistral).
    Raises: Refused, when the layers have other names or are wider already.
    """
    before = int(getattr(model.config, "intermediate_size", 0))
    layers = [layer for layer in model.modules() if all(hasattr(layer, name) for name in ("gate_proj", "down_proj"))]
    if not layers or width < before:
        hint = f"widen is for gated feed-forward layers and at least their width ({before}); 0 leaves them as they are"
        raise Refused(f"the champion's feed-forward layers can't be widened to {width}", hint=hint)
    generator = torch.Generator().manual_seed(seed)
    std = float(getattr(model.config, "initializer_range", 0.02))
    with torch.no_grad():
        for layer in layers:
            for name in ("gate_proj", "up_proj"):
                old = getattr(layer, name)
                new = torch.nn.Linear(old.in_features, width, bias=old.bias is not None)
                new.weight.copy_(torch.randn(new.weight.shape, generator=generator) * std)
                new.weight[:before] = old.weight
                if old.bias is not None:
                    new.bias.zero_()
                    new.bias[:before] = old.bias
                setattr(layer, name, new)
            old = layer.down_proj
            new = torch.nn.Linear(width, old.out_features, bias=old.bias is not None)
            new.weight.zero_()
            new.weight[:, :before] = old.weight
            if old.bias is not None:
                new.bias.copy_(old.bias)
            layer.down_proj = new
    model.config.intermediate_size = width
    return model


def copied(ref: Ref, output: Path) -> None:
    """Copy a folder's model files: weights as safetensors, configuration, tokenizer, template; nothing else of it.

    Raises: Misconfigured, when there are no such weights.
    """
    folder = Path(ref.folder)
    found = [path for pattern in FILES for path in sorted(folder.glob(pattern))]
    if not any(path.suffix == ".safetensors" for path in found) or not (folder / "config.json").exists():
        hint = "a teacher's folder holds config.json, *.safetensors and a tokenizer with a chat template"
        raise Misconfigured(f"no model in {folder}", hint=hint)
    for path in found:
        shutil.copyfile(path, output / path.name)


def combined(ref: Ref, output: Path, *, gpu: bool) -> None:
    """Write a version's full weights, its adapter merged into its base, in the type that they are served in.

    Merged in float32 (a quantised base would be damaged, peft#2321), then rounded: judge it again. Raises: as `merged`.
    """
    model = merged(ref)
    if gpu:
        model = model.to(torch.bfloat16)
    model.config._name_or_path = ""
    model.save_pretrained(output)


def tokenizer_of(ref: Ref, tokenizer: Any, output: Path) -> None:
    """Write the tokenizer that was opened of `ref`, by the very bytes that lie there where those are whole.

    transformers writes into the configuration how it was loaded, which would pass for another tokenizer in a manifest.
    """
    source = tokenizer_folder(ref)
    if not (source / "tokenizer.json").exists():
        tokenizer.save_pretrained(output)
        return
    for name in (*TOKENIZER, TEMPLATE):
        if (source / name).exists():
            shutil.copyfile(source / name, output / name)


def saved(model: Any, ref: Ref, tokenizer: Any, output: Path) -> None:
    """Write full weights as they are stored (bfloat16 when trained on a GPU) with the tokenizer of `ref`.

    Raises: Refused, when a weight is not finite.
    """
    if broken := sum(not bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise Refused(f"{broken} trained weights are not finite", hint="lower the learning rate")
    if model.device.type == "cuda":
        model = model.to(torch.bfloat16)
    model.config._name_or_path = ""
    model.save_pretrained(output)
    tokenizer_of(ref, tokenizer, output)
