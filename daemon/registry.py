"""The registry: immutable versions on disk, named by what they are.

A version is a folder `deployment@<first 12 hex digits of the SHA-256 of its manifest>` that holds its files and
`manifest.json` (RFC 8785). Owns: the manifest's form, publishing, verification. Refuses anything but safetensors and
plain text, to overwrite, and to know why a version exists. Called by `daemon.act` and its helpers, `daemon.ctl`.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from daemon.artifact import check_file, describe, generation, walk
from daemon.codec import canonical
from daemon.files import remove_folder, sync_folder
from daemon.models import Ref
from policies.errors import Corrupt, Misconfigured, Refused

__all__ = ["MANIFEST", "Registry", "describe", "name_of"]

MANIFEST = "manifest.json"
SCHEMA = 1
DEFAULTS: dict[str, Any] = {
    "parents": [],
    "base": "",
    "teacher": "",
    "dataset": "",
    "method": "",
    "seed": 0,
    "depth": 0,
    "tokenizer": "",
    "chat_template": "",
    "system_prompt": "",
    "generation": {},
    "adapter": {},
    "quantisation": "",
    "policy_hash": "",
    "code": "",
    "environment": "",
}
REQUIRED = ("deployment", "kind", "engine")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*@[0-9a-f]{12}")
CHUNK = 1 << 20


def name_of(manifest: Mapping[str, Any]) -> str:
    """`deployment@` and the first 12 hex digits of the SHA-256 of the canonical manifest (RFC 8785)."""
    return f"{manifest['deployment']}@{hashlib.sha256(canonical(manifest)).hexdigest()[:12]}"


class Registry:
    """Versions below one folder, which only this class writes to."""

    def __init__(self, root: Path) -> None:
        """`root` is made where it is missing. Raises: Misconfigured where it can't be."""
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(
                f"the registry {root} can't be made: {error.strerror}", hint="check [service] state and its owner"
            ) from error

    def publish(self, folder: Path, manifest: Mapping[str, Any]) -> str:
        """Copy a model folder in under the name that its manifest gives it, and return that name.

        `manifest` needs deployment, kind and engine; what can be read off the files is added, and never times.
        Publishing the same content again changes nothing. The manifest is written last and the folder renamed into
        place, so that a version is there whole or not at all.
        Raises: Refused (pickles, code, unknown fields, an adapter without its base), Corrupt (torn weights, or a
        version of that name that holds something else).
        """
        filled = self._filled(folder, manifest)
        draft = self.root / f".incoming-{secrets.token_hex(8)}"
        draft.mkdir()
        try:
            filled["files"] = _copy(folder, draft)
            name = name_of(filled)
            if self._holds(name, filled):
                return name
            for inner in (path for path in draft.rglob("*") if path.is_dir()):
                sync_folder(inner)
            _write(draft / MANIFEST, [canonical(filled)])
            sync_folder(draft)
            self._place(draft, name, filled)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return name

    def exists(self, name: str) -> bool:
        """Whether the version's files are here."""
        return bool(NAME.fullmatch(name)) and (self.root / name / MANIFEST).is_file()

    def names(self) -> list[str]:
        """Every version that is here, sorted by name."""
        return sorted(path.name for path in self.root.iterdir() if self.exists(path.name))

    def folder(self, name: str) -> Path:
        """Where the version's files lie. Raises: Refused where the registry has no such version."""
        if not self.exists(name):
            raise Refused(f"{name} is not in the registry", hint="learnctl versions lists what is")
        return self.root / name

    def manifest(self, name: str) -> dict[str, Any]:
        """The version's manifest, checked against its name.

        Raises: Refused where there is no such version, Corrupt where the manifest isn't the one it was named by.
        """
        text = (self.folder(name) / MANIFEST).read_bytes()
        try:
            manifest = json.loads(text)
            sound = isinstance(manifest, dict) and canonical(manifest) == text and name_of(manifest) == name
        except (ValueError, KeyError):
            sound = False
        if not sound:
            raise Corrupt(
                f"{name}: {MANIFEST} is not the manifest that named it",
                hint="the files were edited: restore the version from a backup, or roll back",
            )
        return dict(manifest)

    def verify(self, name: str) -> None:
        """Hash every file of the version again.

        Raises: Refused where there is no such version; Corrupt naming the first file that is missing, changed or was
        never part of it.
        """
        folder, stated = self.folder(name), self.manifest(name)["files"]
        hint = "the files were edited: restore the version from a backup, or roll back"
        present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
        for relative in sorted({*stated, *present} - {MANIFEST}):
            if relative not in present:
                raise Corrupt(f"{name}: {relative} is missing", hint=hint)
            if relative not in stated:
                raise Corrupt(f"{name}: {relative} is not part of this version", hint=hint)
            if _hash(present[relative]) != stated[relative]:
                raise Corrupt(f"{name}: {relative} does not have the hash of its manifest", hint=hint)

    def ref(self, name: str) -> Ref:
        """The version and, for an adapter, its exact base, as something that can be loaded.

        Raises: Refused where one of the two isn't here.
        """
        manifest = self.manifest(name)
        base = str(self.folder(manifest["base"])) if manifest["kind"] == "adapter" else ""
        return Ref(name=name, folder=str(self.folder(name)), base=base, engine=str(manifest["engine"]))

    def remove(self, name: str) -> None:
        """Give a version's files up, whole or not at all; that it may go is `daemon.retention`'s to know.

        Raises: Refused where there is no such version.
        """
        remove_folder(self.folder(name))

    def clean(self) -> list[str]:
        """Remove what an interrupted publish or removal left; only at start-up, when nobody else publishes here."""
        left = [path for path in self.root.iterdir() if path.name.startswith((".incoming-", ".trash-"))]
        for path in left:
            shutil.rmtree(path)
        return sorted(path.name for path in left)

    def _filled(self, folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest with defaults and what the files say. Raises: Refused."""
        known = {*REQUIRED, *DEFAULTS, "schema"}
        if unknown := sorted(set(manifest) - known):
            raise Refused(f"a manifest has no {', '.join(unknown)}", hint=f"it has {', '.join(sorted(known))}")
        if missing := [key for key in REQUIRED if not manifest.get(key)]:
            raise Refused(f"the manifest lacks {', '.join(missing)}", hint="say what this version is")
        filled = {**DEFAULTS, **describe(folder), **manifest, "schema": SCHEMA}
        filled["generation"] = {**generation(folder), **filled["generation"]}
        if not NAME.fullmatch(f"{filled['deployment']}@{'0' * 12}"):
            raise Refused(
                f"{filled['deployment']!r} can't name a folder", hint="letters, digits, dots, dashes and underscores"
            )
        if filled["kind"] not in ("base", "adapter"):
            raise Refused(f"kind {filled['kind']!r} is unknown", hint="a version is a base or an adapter")
        if filled["kind"] == "adapter" and not self.exists(str(filled["base"])):
            raise Refused(
                f"this adapter's base {filled['base']!r} is not in the registry", hint="publish its base first"
            )
        if filled["kind"] == "base" and filled["base"]:
            raise Refused(
                f"a base names no base, this one names {filled['base']}", hint="say kind = adapter, or no base"
            )
        return filled

    def _holds(self, name: str, manifest: Mapping[str, Any]) -> bool:
        """Whether exactly this version is here. Raises: Corrupt where another one has its name."""
        path = self.root / name / MANIFEST
        if not path.is_file():
            return False
        if path.read_bytes() != canonical(manifest):
            raise Corrupt(
                f"{name} is here already and is something else", hint="run learnctl doctor; never rename versions"
            )
        return True

    def _place(self, draft: Path, name: str, manifest: Mapping[str, Any]) -> None:
        try:
            draft.rename(self.root / name)
        except OSError:
            # Somebody else published it in the meantime, which is fine if it is the same.
            if not self._holds(name, manifest):
                raise
        sync_folder(self.root)


def _copy(source: Path, target: Path) -> dict[str, str]:
    """Copy every file, checked, hashed and fsynced: {path below the folder: SHA-256}. Raises: Refused, Corrupt."""
    files: dict[str, str] = {}
    for path in walk(source):
        relative = path.relative_to(source).as_posix()
        check_file(path, relative)
        copied = target / relative
        copied.parent.mkdir(parents=True, exist_ok=True)
        files[relative] = _write(copied, _chunks(path))
    if not files:
        raise Refused(f"{source.name} holds no file", hint="a version is made of safetensors and JSON files")
    return files


def _write(path: Path, parts: Iterable[bytes]) -> str:
    """Write a new file, read-only for all whom the umask lets read it, and return the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
