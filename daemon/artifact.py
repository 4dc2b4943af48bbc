"""A model folder before it becomes a version: which files it may hold, and what they say about themselves.

Owns: the whitelist (safetensors and plain text; never a pickle, never code), and the parts of a manifest that are read
off the files. Refuses to know versions and names. Called by `daemon.registry`.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daemon.codec import canonical
from policies.errors import Corrupt, Refused

WEIGHTS = ".safetensors"
SUFFIXES = frozenset({WEIGHTS, ".json", ".jsonl", ".txt", ".md", ".model", ".jinja", ".yaml", ".tiktoken"})
BARE = frozenset({"README", "LICENSE", "LICENCE", "NOTICE", "COPYING"})
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack"})
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
)
TEMPLATE = "chat_template.jinja"
LONGEST_HEADER = 100_000_000  # the format's own limit


def walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, sorted by its path; a link to a file counts as that file.

    Raises: Refused where a folder is a link, or something is neither file nor folder.
    """
    if not folder.is_dir():
        raise Refused(f"{folder} is no folder", hint="name the folder that holds the model's files")
    for top, folders, files in os.walk(folder):
        folders.sort()
        for name in folders:
            if (Path(top) / name).is_symlink():
                raise Refused(f"{name} is a link to a folder", hint="copy the files it points to in its place")
        for name in sorted(files):
            path = Path(top) / name
            if not path.is_file():
                raise Refused(f"{name} is no regular file", hint="a version is made of files")
            yield path


def check_file(path: Path, relative: str) -> None:
    """Refuse what isn't on the whitelist, whatever its name says.

    Raises: Refused (a pickle, code, anything unknown), Corrupt (safetensors that are cut or no safetensors).
    """
    suffix = path.suffix.lower()
    if relative == "manifest.json":
        raise Refused("manifest.json is written by the registry", hint="rename that file")
    if suffix in PICKLES or _is_pickle(path):
        raise Refused(
            f"{relative} is a pickle or could hold one: loading it could run anything",
            hint="save the weights as safetensors (save_pretrained does) and leave this file out",
        )
    if suffix not in SUFFIXES and path.name.partition(".")[0].upper() not in BARE:
        raise Refused(
            f"{relative} is no file of a version",
            hint=f"a version holds {', '.join(sorted(SUFFIXES))}: leave this file out",
        )
    if suffix == WEIGHTS:
        _check_safetensors(path, relative)


def describe(folder: Path) -> dict[str, Any]:
    """What the files say: hashes of tokenizer and chat template ("" without), adapter configuration, quantisation
    ("" as stored in full precision).

    Raises: Corrupt where one of the files is no JSON.
    """
    tokenizer = {name: _sha256(folder / name) for name in TOKENIZER if (folder / name).is_file()}
    template = _template(folder)
    adapter = _json(folder / "adapter_config.json")
    for key in ("target_modules", "modules_to_save"):
        # PEFT writes these from sets: their order is chance.
        if isinstance(adapter.get(key), list):
            adapter[key] = sorted(adapter[key])
    return {
        "tokenizer": hashlib.sha256(canonical(tokenizer)).hexdigest() if tokenizer else "",
        "chat_template": hashlib.sha256(template.encode()).hexdigest() if template else "",
        "adapter": adapter,
        "quantisation": _quantisation(_json(folder / "config.json").get("quantization_config")),
    }


def generation(folder: Path) -> dict[str, Any]:
    """The generation configuration that the model carries ({} without). Raises: Corrupt where it is no JSON."""
    found = _json(folder / "generation_config.json")
    found.pop("transformers_version", None)
    return found


def _template(folder: Path) -> str:
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text("utf-8")
    template = _json(folder / "tokenizer_config.json").get("chat_template", "")
    return template if isinstance(template, str) else canonical(template).decode()


def _quantisation(config: Any) -> str:
    if not isinstance(config, dict):
        return ""
    method = str(config.get("quant_method", "unknown"))
    if config.get("load_in_4bit"):
        return f"{method} 4-bit {config.get('bnb_4bit_quant_type', '')}".strip()
    return f"{method} 8-bit" if config.get("load_in_8bit") else f"{method} {config.get('bits', '')}".strip()


def _is_pickle(path: Path) -> bool:
    """Protocol 2-5 opcodes at the start, or a zip archive, which is how torch packs its pickles."""
    with path.open("rb") as file:
        head = file.read(4)
    return (len(head) > 1 and head[0] == 0x80 and head[1] <= 5) or head == b"PK\x03\x04"


def _check_safetensors(path: Path, relative: str) -> None:
    size = path.stat().st_size
    hint = "the file was cut or isn't safetensors: write it again"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise Corrupt(f"{relative}: its header is longer than the file", hint=hint)
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise Corrupt(f"{relative}: its header can't be read", hint=hint) from error
    if max(ends, default=0) != size - 8 - length:
        raise Corrupt(f"{relative}: its header promises other tensors than the file holds", hint=hint)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise Corrupt(f"{path.name} is no JSON: {error}", hint="write the model folder again") from error
    return value if isinstance(value, dict) else {}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
