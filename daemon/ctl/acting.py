"""The seven commands that change something: each becomes a row through the control socket, with the caller as actor.

Owns: their options, asking for a reason, and following a command to its outcome. Refuses to change anything itself.
Called by `daemon.ctl`.
"""

import sys
import threading
from typing import Annotated, Any

import typer

from daemon import commands
from daemon.cli import REFUSED
from daemon.clock import SystemClock
from daemon.ctl import client, render
from daemon.ctl.shared import Json

POLL_SECONDS = 0.5
UNDER_WAY = ("running",)

Name = Annotated[str, typer.Argument(help="The deployment.")]
Version = Annotated[str, typer.Option("--version", help="A version, or the beginning of one.")]
PolicyHash = Annotated[str, typer.Option("--policy", metavar="HASH", help="The policy that waits, instead.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the audit log.")]
Tenant = Annotated[str, typer.Option("--tenant", help="A tenant's slot instead of the base.")]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Stay until it has an outcome.")]


def train(
    context: typer.Context,
    deployment: Name,
    *,
    reason: Reason = "",
    tenant: Tenant = "",
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Learn now, without waiting for a trigger.

    --wait follows the attempt until it ended, asks a person, or serves.

    Example: learnctl train support-bot --reason "new product line" --wait
    """
    _give(context, "train", deployment, reason=reason, tenant=tenant, wait=wait, json=json)


def approve(
    context: typer.Context,
    deployment: Name,
    *,
    version: Version = "",
    policy: PolicyHash = "",
    reason: Reason = "",
    tenant: Tenant = "",
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Let the candidate that passed every gate serve, or with --policy a looser policy come into force.

    Example: learnctl approve support-bot --reason "read the 20 worst answers"
    """
    verb, version = (commands.POLICY, policy) if policy else ("approve", version)
    _give(context, verb, deployment, version=version, reason=reason, tenant=tenant, wait=wait, json=json)


def reject(
    context: typer.Context,
    deployment: Name,
    *,
    version: Version = "",
    reason: Reason = "",
    tenant: Tenant = "",
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Turn the candidate down although the gates passed it.

    Example: learnctl reject support-bot --reason "wrong tone"
    """
    _give(context, "reject", deployment, version=version, reason=reason, tenant=tenant, wait=wait, json=json)


def promote(
    context: typer.Context,
    deployment: Name,
    *,
    version: Version = "",
    reason: Reason = "",
    tenant: Tenant = "",
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Promote a version that passed every gate.

    For example one that shadow mode held back.

    Example: learnctl promote support-bot --version b1d3 --reason "shadow week is over"
    """
    _give(context, "promote", deployment, version=version, reason=reason, tenant=tenant, wait=wait, json=json)


def rollback(
    context: typer.Context,
    deployment: Name,
    *,
    version: Version = "",
    reason: Reason = "",
    tenant: Tenant = "",
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Serve the version before again.

    It needs no gate, and beats a pause.

    Example: learnctl rollback support-bot --reason "complaints since noon" --wait
    """
    _give(context, "rollback", deployment, version=version, reason=reason, tenant=tenant, wait=wait, json=json)


def pause(
    context: typer.Context,
    deployment: Name,
    *,
    reason: Reason = "",
    tenant: Tenant = "",
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Start nothing new until somebody says resume.

    Feedback is still collected, and a rollback still works.

    Example: learnctl pause support-bot --reason "release freeze"
    """
    _give(context, "pause", deployment, reason=reason, tenant=tenant, wait=wait, json=json)


def resume(
    context: typer.Context,
    deployment: Name,
    *,
    reason: Reason = "",
    tenant: Tenant = "",
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Go on after a pause.

    Example: learnctl resume support-bot
    """
    _give(context, "resume", deployment, reason=reason, tenant=tenant, wait=wait, json=json)


def _give(
    context: typer.Context, verb: str, name: str, *, wait: bool, json: bool, reason: str, tenant: str, version: str = ""
) -> None:
    door = client.door(context)
    if verb in commands.REASONED and not reason.strip():
        reason = asked(verb, name)
    order = {"deployment": name, "verb": verb, "reason": reason, "version": version, "tenant": tenant}
    row = door.ask("POST", "/commands", json=order)
    if wait:
        row = _followed(door, row, quiet=json)
    if json:
        render.dump(row)
    else:
        _told(row)
    if row["outcome"] == "refused":
        raise typer.Exit(REFUSED)


def asked(verb: str, name: str) -> str:
    """The reason, typed where there is somebody to type it.

    Raises: typer.BadParameter (usage) where nobody is there.
    """
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{verb} needs a reason: say why, it goes into the audit log", param_hint="--reason")
    answer: str = typer.prompt(f"why {verb} {name}? (it goes into the audit log)", err=True)
    return answer


def _followed(door: client.Door, row: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """The command with its outcome; a training's attempt is followed until it ended, asks a person, or serves."""
    pause_, number, before = threading.Event(), row["id"], ""
    while not row["outcome"]:
        pause_.wait(POLL_SECONDS)
        row = door.ask("GET", f"/commands/{number}")
        before = _murmur(door, row, before, quiet=quiet)
    if row["verb"] != "train" or row["outcome"] == "refused":
        return row
    while True:
        cycle = next(iter(door.ask("GET", "/cycles", params={"deployment": row["deployment"], "limit": 1})), None)
        slot = _slot(door, row)
        if cycle is None or cycle["outcome"] not in UNDER_WAY or slot["phase"] in ("approving", "ramping", "watching"):
            return {**row, "cycle": cycle}
        before = _murmur(door, row, before, quiet=quiet)
        pause_.wait(POLL_SECONDS)


def _slot(door: client.Door, row: dict[str, Any]) -> dict[str, Any]:
    told = door.ask("GET", "/status")["deployments"]
    return next(slot for slot in told if (slot["name"], slot["tenant"]) == (row["deployment"], row["tenant"]))


def _murmur(door: client.Door, row: dict[str, Any], before: str, *, quiet: bool) -> str:
    """Tell what is going on, once a change."""
    slot = _slot(door, row)
    phase = slot["phase"].replace("_", " ")
    now = slot["reason"] if slot["reason"].startswith(phase) else f"{phase}: {slot['reason']}"
    if now != before and not quiet:
        typer.echo(now, err=True)
    return now


def _told(row: dict[str, Any]) -> None:
    now = SystemClock().now()
    name = f"{row['verb'].replace('_', ' ')} {row['deployment']}"
    if not row["outcome"]:
        render.say(f"{name}: taken as command {row['id']} of {row['actor']}, {render.when(row['at'], now)}")
        render.say(f"what becomes of it: learnctl commands -d {row['deployment']}, or give --wait")
        return
    render.say(f"{name}: {row['outcome']}, {row['answer']}")
    cycle = row.get("cycle")
    if cycle:
        render.say(f"  {cycle['outcome'].replace('_', ' ')}: {cycle['reason']}")
        render.say(f"more: learnctl show {cycle['candidate']}" if cycle["candidate"] else "more: learnctl status")
