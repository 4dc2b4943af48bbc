"""Target `files`: a folder that a server watches. `current` is a symlink to the version it should serve.

    FOLDER/versions/<name>/   the version's files and learnd.json, which names its base beside it
    FOLDER/current            -> versions/<name>, switched atomically (rename over the link)
    FOLDER/route.json         {"shares", "token", "history"}: the newest token, and what was served, newest last

Owns: this layout. Refuses to split traffic (a link has one end), an older token, and to answer from anywhere but
through `current`. Called through `daemon.targets`.

The token is made durable before the link is switched: after a crash between the two an older leader is refused already,
and the new one routes again.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon import models
from daemon.files import remove_folder, sync_folder, write_atomically
from daemon.models import Conversation, Ref
from daemon.targets import Answers, Serving, check_shares
from policies.errors import Corrupt, Misconfigured, Refused, Transient

SPLITS = False
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,150}")
CARD, ROUTE, CURRENT, LOCK = "learnd.json", "route.json", "current", ".lock"


@dataclass(frozen=True)
class Options:
    """`folder`: what the server watches. `keep`: versions left there for a quick way back, the served one included.

    `device` (cpu, gpu, any) is where a proof of serving is computed.
    """

    folder: Path
    keep: int = 3
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.keep < 2:
            raise ValueError("keep is 2 at least: the served version and the one before")
        if self.device not in ("cpu", "gpu", "any"):
            raise ValueError(f"device = {self.device!r} is not cpu, gpu or any")


class Target:
    """One such folder. Several processes may hold it: changes are made one at a time, under a lock on it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = options.folder
        self.versions = options.folder / "versions"

    def load(self, ref: Ref) -> None:
        """Put the version and its base under `versions`; a version that is there already is left as it is.

        Raises: Refused (a name that makes no folder, files that are gone), Transient (the folder can't be written to).
        """
        with self._changing():
            base = Path(ref.base).name if ref.base else ""
            if base:
                self._place(base, Path(ref.base), {"name": base, "engine": ref.engine, "base": ""})
            card = {"name": ref.name, "engine": ref.engine, "base": f"../{base}" if base else ""}
            self._place(ref.name, Path(ref.folder), card)

    def route(self, shares: Mapping[str, float], token: int) -> None:
        """Switch `current` to the one version of `shares`, then let versions go that nobody may go back to.

        Raises: Refused (an older token, a version that isn't loaded), Misconfigured (a split), Transient.
        """
        check_shares(shares)
        if len(shares) != 1:
            hint = "let the policy's rollout promote in one step, or serve by a target that can split"
            raise Misconfigured("target files serves one version at a time", hint=hint)
        (name,) = shares
        with self._changing():
            route = self._route()
            if token < route["token"]:
                hint = "another daemon has taken over: this one must stop"
                raise Refused(f"token {token} is older than {route['token']}", hint=hint)
            if not (self._version(name) / CARD).is_file():
                raise Refused(f"{name} is not loaded", hint="load it first")
            before = (other for other in route["history"] if other != name and self._version(other).exists())
            history = [*before, name]
            changed = {"shares": {name: 1.0}, "token": token, "history": history}
            write_atomically(self.folder / ROUTE, [json.dumps(changed).encode()], mode=0o644)
            self._switch(name)
            self._tidy(history[: -self.options.keep])

    def serving(self) -> Serving:
        """The version that `current` leads to, and the newest token.

        Raises: Corrupt where route.json can't be read or `current` leads elsewhere.
        """
        name = self._current()
        return Serving({name: 1.0} if name else {}, int(self._route()["token"]))

    def answer(self, prompts: Sequence[Conversation], version: str, *, max_new_tokens: int = 128) -> Answers:
        """Greedy answers of what `current` leads to, loaded anew from there as a server would.

        Raises: Refused where that isn't `version`; Misconfigured where its files can't be loaded.
        """
        serving = self._current()
        if serving != version:
            raise Refused(f"{serving or 'nothing'} is served, not {version}", hint="route to it first")
        folder = (self.folder / CURRENT).resolve()
        model = models.load(self._ref(folder), device=self.options.device)
        texts = model.answer(prompts, max_new_tokens=max_new_tokens)
        return Answers(tuple(texts), tuple(nats for nats, _ in model.logprobs(prompts, texts)))

    def unload(self, version: str) -> None:
        """Remove a version's files; one that isn't there is no error.

        Raises: Refused where it is served, or the base of a version that is loaded.
        """
        with self._changing():
            if version == self._current():
                raise Refused(f"{version} is served", hint="route to another version first")
            if users := self._users(version):
                raise Refused(f"{version} is the base of {', '.join(users)}", hint="unload those first")
            if self._version(version).exists():
                remove_folder(self._version(version))

    def _place(self, name: str, source: Path, card: Mapping[str, str]) -> None:
        final = self._version(name)
        if final.exists():
            return
        draft = self.versions / f".draft-{name}"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            shutil.copytree(source, draft, copy_function=_link, ignore=shutil.ignore_patterns(CARD))
        except (FileNotFoundError, NotADirectoryError, shutil.Error) as error:
            raise Refused(
                f"the files of {name} are not there: {error}", hint="learnctl versions lists what is"
            ) from error
        write_atomically(draft / CARD, [json.dumps(dict(card)).encode()], mode=0o644)
        for folder in (path for path in draft.rglob("*") if path.is_dir()):
            sync_folder(folder)
        draft.rename(final)
        sync_folder(self.versions)

    def _switch(self, name: str) -> None:
        link = self.folder / f".{CURRENT}"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("versions") / name, target_is_directory=True)
        link.replace(self.folder / CURRENT)
        sync_folder(self.folder)

    def _tidy(self, old: Sequence[str]) -> None:
        """Let go of what was served too long ago to go back to, and of bases that nothing needs any more."""
        bases = [base for base in map(self._base, old) if base]
        unserved = (base for base in bases if base not in self._route()["history"])
        # A base that served before its adapters is among the old ones too: it goes once the last of them has gone.
        for name in sorted([*old, *unserved], key=lambda name: name in bases):
            if self._version(name).exists() and not self._users(name):
                remove_folder(self._version(name))

    def _users(self, name: str) -> list[str]:
        """The loaded versions whose base this one is."""
        return [other for other in self._names() if other != name and self._base(other) == name]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            self.versions.mkdir(parents=True, exist_ok=True)
            with (self.folder / LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise Transient(
                f"{self.folder} can't be changed: {error}", hint="is there space, and is it ours?"
            ) from error

    def _current(self) -> str:
        with suppress(FileNotFoundError):
            link = (self.folder / CURRENT).readlink()
            if link.parent != Path("versions"):
                raise Corrupt(f"{self.folder / CURRENT} leads to {link}", hint="only learnd may switch it")
            return link.name
        return ""

    def _route(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / ROUTE).read_text("utf-8"))
            return {"token": int(found["token"]), "history": [str(name) for name in found["history"]]}
        except FileNotFoundError:
            return {"token": 0, "history": []}
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{self.folder / ROUTE} can't be read: {error}", hint="only learnd may write it") from error

    def _version(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise Refused(f"{name!r} can't name a folder", hint="a version is DEPLOYMENT@HASH")
        return self.versions / name

    def _names(self) -> list[str]:
        found = self.versions.iterdir() if self.versions.exists() else ()
        return sorted(path.name for path in found if not path.name.startswith("."))

    def _base(self, name: str) -> str:
        return Path(self._ref(self.versions / name).base).name

    def _ref(self, folder: Path) -> Ref:
        try:
            card = json.loads((folder / CARD).read_text("utf-8"))
            base = str((folder / card["base"]).resolve()) if card["base"] else ""
            return Ref(str(card["name"]), str(folder), base, str(card["engine"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{folder} is no loaded version: {error}", hint="only learnd may write there") from error


def _link(source: str, target: str) -> str:
    """A hard link where both folders lie on one disk, since versions never change, else a copy that survives."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
        with Path(target).open("rb") as file:
            os.fsync(file.fileno())
    return target
