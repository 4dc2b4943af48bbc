"""A version is what its manifest says, whole or not there at all, and never a pickle."""

import hashlib
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from daemon.codec import canonical
from daemon.registry import MANIFEST, Registry, describe, name_of
from policies.errors import Corrupt, Refused

SAID: dict[str, Any] = {"deployment": "bot", "kind": "base", "engine": "echo", "seed": 7}


def tensors(values: bytes) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    return len(header).to_bytes(8, "little") + header + values


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(tensors(b"weights"))
    (folder / "config.json").write_text(
        '{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}'
    )
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "hello"}')
    (folder / "generation_config.json").write_text('{"temperature": 0.7, "transformers_version": "5"}')
    (folder / "deep" / "notes.txt").write_text("kept")
    return folder


def test_a_version_is_named_by_the_hash_of_its_manifest_and_the_manifest_by_its_files(
    registry: Registry, model: Path
) -> None:
    name = registry.publish(model, SAID)
    manifest = registry.manifest(name)
    assert name == "bot@" + hashlib.sha256((registry.folder(name) / MANIFEST).read_bytes()).hexdigest()[:12]
    assert name == name_of(manifest)
    assert manifest["files"]["deep/notes.txt"] == hashlib.sha256(b"kept").hexdigest()
    assert manifest["seed"] == 7
    assert manifest["parents"] == []
    registry.verify(name)


def test_publishing_the_same_content_again_gives_the_same_version(registry: Registry, model: Path) -> None:
    name = registry.publish(model, SAID)
    before = (registry.folder(name) / MANIFEST).stat()
    assert registry.publish(model, SAID) == name
    after = (registry.folder(name) / MANIFEST).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert registry.names() == [name]


def test_many_publishers_of_one_content_leave_one_version_and_no_draft(registry: Registry, model: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: registry.publish(model, SAID), range(16)))
    assert len(names) == 1
    assert [path.name for path in registry.root.iterdir()] == list(names)


def test_another_byte_or_another_word_of_the_manifest_is_another_version(registry: Registry, model: Path) -> None:
    first = registry.publish(model, SAID)
    second = registry.publish(model, {**SAID, "seed": 8})
    (model / "deep" / "notes.txt").write_text("Kept")
    third = registry.publish(model, SAID)
    assert len({first, second, third}) == 3


def test_what_the_files_say_stands_in_the_manifest_and_what_the_caller_says_wins(
    registry: Registry, model: Path
) -> None:
    manifest = registry.manifest(registry.publish(model, {**SAID, "generation": {"max_new_tokens": 5}}))
    assert manifest["quantisation"] == "bitsandbytes 4-bit"
    assert manifest["chat_template"] == hashlib.sha256(b"hello").hexdigest()
    assert manifest["generation"] == {"temperature": 0.7, "max_new_tokens": 5}
    assert len(manifest["tokenizer"]) == 64
    assert registry.manifest(registry.publish(model, {**SAID, "tokenizer": "said"}))["tokenizer"] == "said"


def test_the_order_of_an_adapters_target_modules_is_no_difference(tmp_path: Path) -> None:
    for order in (["q", "v"], ["v", "q"]):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"target_modules": order, "r": 8}))
        assert describe(tmp_path)["adapter"] == {"target_modules": ["q", "v"], "r": 8}


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "a.pt", "a.PKL", "a.pth", "a.ckpt", "a.npy", "training_args.bin"]
)
def test_a_pickle_is_refused_by_its_name(registry: Registry, model: Path, name: str) -> None:
    (model / name).write_bytes(b"anything")
    with pytest.raises(Refused, match="pickle"):
        registry.publish(model, SAID)
    assert list(registry.root.iterdir()) == []


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), b"PK\x03\x04archive"])
def test_a_pickle_is_refused_by_its_content_whatever_its_name(registry: Registry, model: Path, content: bytes) -> None:
    (model / "innocent.json").write_bytes(content)
    with pytest.raises(Refused, match=r"innocent\.json is a pickle"):
        registry.publish(model, SAID)


@pytest.mark.parametrize("name", ["modeling_evil.py", "run.sh", ".hidden", MANIFEST])
def test_code_and_the_unknown_are_refused(registry: Registry, model: Path, name: str) -> None:
    (model / name).write_text("x")
    with pytest.raises(Refused):
        registry.publish(model, SAID)


@pytest.mark.parametrize("content", [b"", tensors(b"weights")[:-1], tensors(b"weights") + b"x", b"\xff" * 9])
def test_torn_weights_are_not_published(registry: Registry, model: Path, content: bytes) -> None:
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(Corrupt, match=r"model\.safetensors"):
        registry.publish(model, SAID)
    assert registry.names() == []


def test_a_link_to_a_file_is_copied_and_a_link_to_a_folder_refused(registry: Registry, model: Path) -> None:
    (model / "again.txt").symlink_to(model / "deep" / "notes.txt")
    name = registry.publish(model, SAID)
    assert not (registry.folder(name) / "again.txt").is_symlink()
    (model / "loop").symlink_to(model)
    with pytest.raises(Refused, match="link to a folder"):
        registry.publish(model, SAID)


def test_an_empty_folder_and_no_folder_are_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(Refused):
            registry.publish(folder, SAID)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"created": 1.0}, "a manifest has no created"),
        ({"engine": ""}, "lacks engine"),
        ({"deployment": "../out"}, "can't name a folder"),
        ({"kind": "merge"}, "is unknown"),
        ({"kind": "adapter", "base": "bot@000000000000"}, "is not in the registry"),
        ({"base": "bot@000000000000"}, "names no base"),
    ],
)
def test_a_manifest_says_what_a_version_is_and_nothing_else(
    registry: Registry, model: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        registry.publish(model, {**SAID, **change})
    assert list(registry.root.iterdir()) == []


def test_an_adapter_refers_to_the_folder_of_its_exact_base(registry: Registry, model: Path) -> None:
    base = registry.publish(model, SAID)
    adapter = registry.publish(model, {**SAID, "kind": "adapter", "base": base, "engine": "transformers"})
    ref = registry.ref(adapter)
    assert (ref.name, ref.engine) == (adapter, "transformers")
    assert (ref.folder, ref.base) == (str(registry.folder(adapter)), str(registry.folder(base)))
    assert registry.ref(base).base == ""


@pytest.mark.parametrize("how", ["changed", "missing", "added"])
def test_verification_names_the_file_that_was_touched(registry: Registry, model: Path, how: str) -> None:
    name = registry.publish(model, SAID)
    path = registry.folder(name) / "deep" / "notes.txt"
    path.chmod(0o600)
    if how == "changed":
        path.write_text("kepT")
    elif how == "missing":
        path.unlink()
    else:
        path = path.with_name("more.txt")
        path.write_text("")
    with pytest.raises(Corrupt, match=f"deep/{path.name}"):
        registry.verify(name)


def test_an_edited_manifest_is_found_even_if_it_matches_the_files(registry: Registry, model: Path) -> None:
    name = registry.publish(model, SAID)
    path = registry.folder(name) / MANIFEST
    manifest = {**registry.manifest(name), "method": "by hand"}
    path.chmod(0o600)
    path.write_bytes(canonical(manifest))
    for look in (registry.manifest, registry.verify, registry.ref):
        with pytest.raises(Corrupt, match=r"manifest\.json"):
            look(name)
    with pytest.raises(Corrupt, match="something else"):
        registry.publish(model, SAID)


@pytest.mark.parametrize("name", ["bot@000000000000", "../registry", "bot", "", ".incoming-x"])
def test_what_is_not_there_is_refused(registry: Registry, name: str) -> None:
    assert not registry.exists(name)
    with pytest.raises(Refused, match="not in the registry"):
        registry.folder(name)


def test_what_an_interrupted_publish_left_is_no_version_and_is_cleaned_at_start(
    registry: Registry, model: Path
) -> None:
    name = registry.publish(model, SAID)
    (registry.root / ".incoming-dead").mkdir()
    (registry.root / ".incoming-dead" / MANIFEST).write_text("{}")
    assert registry.names() == [name]
    assert registry.clean() == [".incoming-dead"]
    assert registry.clean() == []
    registry.verify(name)


def test_published_files_are_read_only_and_removal_takes_all(registry: Registry, model: Path) -> None:
    name = registry.publish(model, SAID)
    assert all(path.stat().st_mode & 0o222 == 0 for path in registry.folder(name).rglob("*") if path.is_file())
    registry.remove(name)
    assert list(registry.root.iterdir()) == []
    assert registry.publish(model, SAID) == name
