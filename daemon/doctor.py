"""What is wrong, or will be: findings, each with what to do.

Owns: the checks of the machine and of what learnd talks to. Refuses to repair. Called by `daemon.ctl.care`.
"""

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.orm import Session

from daemon import enforcing, keys, ledger, promises, schema, views
from daemon.config import Settings, load
from daemon.findings import ERROR, NOTE, OK, Finding, check_files, policies_of, tried
from daemon.peers import listens
from feedback import db
from policies.policy import Policy
from policies.words import count, percent

LIBRARIES = ("torch", "transformers", "peft", "trl", "evidently", "kafka-python", "sqlalchemy", "apscheduler", "pandas")
NAMES = ("daemon", "feedback", "policies")
GIB = 1 << 30
LITTLE, SCARCE = 1 * GIB, 10 * GIB
SUN_PATH = 107  # unix(7): the longest path of a socket
SECONDS = 3.0


def examine(path: Path) -> list[Finding]:
    """Everything that learnd needs here: libraries, disk, database, sources, models, keys, socket, systemd.

    Raises: Misconfigured where the settings can't be read at all.
    """
    settings = load(path)
    found = check_files(path)
    found += _program()
    for check in (_disk, _devices, _database, _sources, _targets, _keys, _socket, _systemd):
        found += check(settings)
    return found


def _program() -> Iterator[Finding]:
    """This Python, the libraries, and that nobody else owns our import names."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding(
        "python", OK if sys.version_info >= (3, 11) else ERROR, f"Python {version}", "3.11 or newer is needed"
    )
    installed, missing = [], []
    for name in LIBRARIES:
        try:
            installed.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("libraries", OK, ", ".join(installed))
    if missing:
        yield Finding("libraries", ERROR, f"not installed: {', '.join(missing)}", "install learnd into a private venv")
    for name, owners in foreign_owners().items():
        hint = "install learnd into a venv of its own (python-daemon also calls itself daemon)"
        yield Finding("names", ERROR, f"the import name {name} also belongs to {', '.join(owners)}", hint)


@cache
def foreign_owners() -> dict[str, list[str]]:
    """Our import names that another installed distribution claims too, with its name."""
    owners = importlib.metadata.packages_distributions()
    found = {name: sorted(set(owners.get(name, [])) - {"learnd"}) for name in NAMES}
    return {name: others for name, others in found.items() if others}


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = next(each for each in (settings.state, *settings.state.parents) if each.exists())
    free = shutil.disk_usage(folder).free
    level = ERROR if free < LITTLE else NOTE if free < SCARCE else OK
    yield Finding("disk", level, f"{free / GIB:.1f} GiB free at {folder}", "make room: every version keeps its weights")
    if settings.state.is_dir() and settings.state.stat().st_mode & 0o077:
        yield Finding("state", NOTE, f"{settings.state} can be entered by others", f"chmod 700 {settings.state}")
    if not os.access(folder, os.W_OK):
        yield Finding("state", ERROR, f"{folder} can't be written by this user", "run as the service's user")


def _devices(settings: Settings) -> Iterator[Finding]:
    present = Path("/dev/nvidiactl").exists()
    waiting = [name for name, policy in policies_of(settings).items() if policy.method.device == "gpu"]
    if waiting and not present:
        hint = 'set method.device = "any" in the policy to train on the CPU'
        yield Finding("gpu", ERROR, f"no GPU here, and {', '.join(waiting)} would wait for one", hint)
    else:
        yield Finding("gpu", OK, "a GPU is there" if present else "no GPU, and no policy waits for one")


def _database(settings: Settings) -> Iterator[Finding]:
    url = make_url(settings.database)
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        yield Finding("database", NOTE, f"{shown} is not there yet", "learnd run makes it when it starts")
        return
    found: list[Finding] = []

    def look() -> list[Finding]:
        engine = db.connect(settings.database)
        try:
            schema.check(engine)
            return db.read(engine, lambda session: list(_promised(session, settings)))
        finally:
            engine.dispose()

    promised = tried(found, "database", look)
    yield from found
    if promised is None:
        return
    yield Finding("database", OK, f"{shown} has the schema of this learnd")
    yield from promised


def check_promises(settings: Settings) -> list[Finding]:
    """Whether the files' policies would come into force on the database that is there; nothing where there is none."""
    return [finding for finding in _database(settings) if finding.check == "power"]


def _promised(session: Session, settings: Settings) -> Iterator[Finding]:
    for name, policy in policies_of(settings).items():
        yield from _power(session, name, policy)
        before = views.policy_of(session, name)
        why = enforcing.looser(before, policy)
        if why:
            hint = f"the old one stays until somebody says: learnctl approve {name} --policy {policy.hash[:12]}"
            yield Finding("power", NOTE, f"{name}: looser than the policy in force: {'; '.join(why)}", hint)


def _power(session: Session, name: str, policy: Policy) -> Iterator[Finding]:
    """What the policy promises and its sets can't prove: an error where it would not come into force so.

    What was in force with that promise goes on: its candidates stay inconclusive, none is let through.
    """
    roles = {view.role for view in promises.sets(session, name) if view.items}
    for role in ("goldens", "safety", "anchor"):
        if role not in roles:
            hint = f"learnctl goldens import FILE -d {name} --role {role}"
            yield Finding("power", NOTE, f"{name}: no set of role {role} is accepted", hint)
    for gate, share in ledger.upcoming(session, name, policy).items():
        met, left = share.number - 1, share.share + share.left
        said = f"{name}: {count(met, 'candidate')} met the sets of {gate}, {percent(left)} of its error rate is left"
        yield Finding("ledger", OK, said)
    new = enforcing.newly_broken(session, name, policy, views.policy_of(session, name))
    for shortfall in promises.broken(session, name, policy):
        level = ERROR if shortfall in new else NOTE
        yield Finding("power", level, f"{name}: {shortfall.message}", shortfall.hint)


def _sources(settings: Settings) -> Iterator[Finding]:
    for source in settings.sources:
        yield from _reach(f"source {source.kind}", source.options, os.R_OK | os.X_OK)


def _targets(settings: Settings) -> Iterator[Finding]:
    for name, deployment in settings.deployments.items():
        yield from _reach(f"target {name}", deployment.target.options, os.W_OK | os.X_OK)


def _reach(check: str, options: Any, access: int) -> Iterator[Finding]:
    """A folder that can be used, or servers that take a connection, whichever the options name."""
    folder = getattr(options, "folder", None)
    if isinstance(folder, Path):
        if folder.is_dir() and not os.access(folder, access):
            yield Finding(check, ERROR, f"{folder} can't be used by this user", "check its owner and mode")
        else:
            yield Finding(check, OK, f"{folder}" if folder.is_dir() else f"{folder} is made when learnd starts")
    servers = getattr(options, "servers", None) or getattr(options, "bootstrap_servers", None) or ()
    for server in servers.split(",") if isinstance(servers, str) else servers:
        host, _, port = str(server).strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
        except (OSError, ValueError) as error:
            yield Finding(
                check, ERROR, f"{server} takes no connection: {error}", "is it running, and is the name right?"
            )
        else:
            yield Finding(check, OK, f"{server} answers")


def _keys(settings: Settings) -> Iterator[Finding]:
    found: list[Finding] = []
    there = sorted(settings.keys.glob("*.key")) if settings.keys.is_dir() else []
    for path in there:
        tried(found, "keys", partial(keys.check_mode, path))
    yield from found
    if not there and not os.environ.get("CREDENTIALS_DIRECTORY"):
        yield Finding(
            "keys", NOTE, f"{settings.keys} holds no keys yet", "learnd makes them at its first start: back them up"
        )
    elif not found:
        yield Finding("keys", OK, f"{len(there)} keys in {settings.keys}, for this service alone")


def _socket(settings: Settings) -> Iterator[Finding]:
    path = settings.socket
    if len(os.fsencode(path)) > SUN_PATH:
        yield Finding(
            "socket", ERROR, f"{path} is too long for a socket", f"at most {SUN_PATH} bytes: set service.socket"
        )
        return
    answers = listens(path)
    hint = f"learnd run --config {settings.path}"
    yield Finding("socket", OK if answers else NOTE, f"{path} {'answers' if answers else 'has no daemon'}", hint)


def _systemd(_settings: Settings) -> Iterator[Finding]:
    if not Path("/run/systemd/system").is_dir():
        yield Finding("systemd", NOTE, "systemd does not run here", "learnd run works in the foreground all the same")
        return
    units = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
    there = next((folder for folder in units if (Path(folder) / "learnd.service").exists()), "")
    said = f"learnd.service is in {there}" if there else "learnd.service is not installed"
    yield Finding("systemd", OK if there else NOTE, said, "the folder systemd/ of the distribution has it")
