"""The service's secrets: the key that hides users and the key that folds prompts, one file each.

Owns: where they lie (systemd's credentials, else the keys folder), that they are made once, and that nobody else reads
them. Refuses to know what is keyed with them (`feedback.records`). Called by `daemon.service`, `learnctl feedback
import` and `doctor`.
"""

import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon.config import Settings
from daemon.policyfile import load_policy
from feedback.keys import DeploymentRules, RecordSettings
from policies.errors import Misconfigured

BYTES = 32
FOLD = "fold.key"


@dataclass(frozen=True)
class Keys:
    """`user` hides users (a new `user-N.key` is its next version), `fold` splits prompts and is never changed.

    `old_users`: earlier versions by number, which find the records of a user that were stored under them.
    """

    user: bytes = field(repr=False)
    user_version: int
    fold: bytes = field(repr=False)
    old_users: Mapping[int, bytes] = field(default_factory=dict, repr=False)


def record_settings(settings: Settings) -> RecordSettings:
    """What ingest must know, of the configuration, its policies and the keys (which are made where there are none yet).

    Raises: Misconfigured as `load_keys` and `load_policy`.
    """
    keys = load_keys(settings.keys)
    return RecordSettings(
        deployments={
            name: DeploymentRules(each.consent_default, load_policy(each.policy).drift.slices)
            for name, each in settings.deployments.items()
        },
        user_key=keys.user,
        key_version=keys.user_version,
        fold_key=keys.fold,
        judge_share=settings.records.judge_share,
        max_bytes=settings.records.max_bytes,
        old_user_keys=keys.old_users,
        regions=settings.records.regions,
        erase_sources=frozenset(settings.records.erase_sources) if settings.records.erase_sources is not None else None,
    )


def load_keys(folder: Path, credentials: Path | None = None) -> Keys:
    """The keys, made at the first run (mode 0600) where no file and no systemd credential is there.

    `credentials`: systemd's folder; by default what $CREDENTIALS_DIRECTORY names.
    Raises: Misconfigured where a key is empty, or readable by others.
    """
    if credentials is None and os.environ.get("CREDENTIALS_DIRECTORY"):
        credentials = Path(os.environ["CREDENTIALS_DIRECTORY"])
    versions = {*_versions(folder), *(_versions(credentials) if credentials else ())} or {1}
    users = {version: _key(folder, credentials, f"user-{version}.key") for version in sorted(versions)}
    newest = max(users)
    return Keys(users.pop(newest), newest, _key(folder, credentials, FOLD), users)


def check_mode(path: Path) -> None:
    """Refuse a key that its group or others can read.

    Raises: Misconfigured.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise Misconfigured(f"{path} can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}")


def _versions(folder: Path) -> list[int]:
    found = (path.stem.removeprefix("user-") for path in folder.glob("user-*.key"))
    return [int(number) for number in found if number.isdecimal()]


def _key(folder: Path, credentials: Path | None, name: str) -> bytes:
    path = folder / name
    if credentials is not None and (credentials / name).is_file():
        path = credentials / name  # systemd gives it to this service alone, whatever its mode says
    elif path.exists():
        check_mode(path)
    else:
        _create(path)
    try:
        key = path.read_bytes()
    except PermissionError as error:
        raise Misconfigured(f"{path} can't be read", hint="run as the service's user, or as root") from error
    if len(key) < BYTES:
        raise Misconfigured(f"{path} holds {len(key)} bytes, {BYTES} are needed", hint="restore it from your backup")
    return key


def _create(path: Path) -> None:
    """Write a new key whole or not at all; of two first runs at once, one wins and both read the same key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, secrets.token_bytes(BYTES))
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
