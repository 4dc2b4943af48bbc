"""What a person brings: golden sets, and feedback out of files.

Owns: reading the files and telling what became of them. Refuses to judge a line (`daemon.goldens`, `feedback.records`).
Called by `daemon.ctl`. A golden set goes through the daemon where one runs, else straight into the database; feedback
needs no daemon, since ingest is one transaction whoever runs it.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli import REFUSED
from daemon.clock import SystemClock
from daemon.ctl import client, render
from daemon.ctl.shared import Json, Only, the_deployment
from policies import words
from policies.errors import Refused

SHOWN = 20


def goldens_import(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON Lines: one item a line.")],
    *,
    deployment: Only = "",
    name: Annotated[str, typer.Option("--name", help="The set's name; else the file's.")] = "",
    role: Annotated[str, typer.Option("--role", help="goldens, safety or anchor.")] = "goldens",
    json: Json = False,
) -> None:
    """Accept a set of items that judges every later version.

    One bad line refuses the file, and says why.

    A line is {"id", "slice", "prompt" or "messages", "check": {"kind", "value"}, "reference"}; with role safety the
    slices harmful, benign and canary bring their check with them.

    Example: learnctl goldens import faq.jsonl -d support-bot --name faq --role goldens
    """
    door = client.door(context)
    wanted = {
        "deployment": the_deployment(door.settings, deployment),
        "name": name or file.stem,
        "role": role,
        "text": _text(file),
    }
    report = door.ask("POST", "/goldens", json=wanted) if door.answers() else _directly(door, wanted)
    if json:
        render.dump(report)
    else:
        _imported(report)
    if not report["stored"]:
        raise typer.Exit(REFUSED)


def goldens_list(context: typer.Context, deployment: Only = "", json: Json = False) -> None:
    """Every version of every set, newest first.

    Example: learnctl goldens list
    """
    rows = client.door(context).see("goldens", deployment=deployment)
    if json:
        return render.dump(rows)
    now = SystemClock().now()
    return render.table(
        ("set", "deployment", "role", "version", "items", "slices", "accepted", "hash"),
        [
            (
                row["name"],
                row["deployment"],
                row["role"],
                row["version"] + ("" if row["current"] else " (replaced)"),
                words.count(row["items"]),
                _slices(row["slices"]),
                f"{render.when(row['at'], now)} by {row['accepted_by']}",
                row["hash"][:12],
            )
            for row in rows
        ],
        empty="no set yet: learnctl goldens import --help",
    )


def feedback_import(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="JSON Lines of record v1.")],
    json: Json = False,
) -> None:
    """Store the records of files as a source would.

    Each once; what is refused is a dead letter with its reason.

    Example: learnctl feedback import last-month.jsonl
    """
    from daemon.bulk import import_files

    door = client.door(context)
    for file in files:
        _readable(file)
    report = import_files(door.prepared, door.settings, files, SystemClock())
    if json:
        return render.dump(report)
    render.say(
        f"{words.count(report['read'])} read · {words.count(report['stored'])} stored · "
        f"{words.count(report['duplicates'])} duplicates · {words.count(report['dead_letters'])} dead letters"
    )
    return render.say("why: learnctl dead-letters" if report["dead_letters"] else "more: learnctl status")


def _directly(door: client.Door, wanted: dict[str, Any]) -> dict[str, Any]:
    """The same import without a daemon: the actor is whoever runs this command."""
    from daemon.commands import import_goldens
    from daemon.peers import actor_of
    from feedback import db

    actor, now = actor_of(os.getuid()), SystemClock().now()
    return db.transact(door.prepared, lambda session: import_goldens(session, **wanted, actor=actor, now=now))


def _imported(report: dict[str, Any]) -> None:
    if not report["stored"]:
        refused: Sequence[dict[str, Any]] = report["refused"]
        render.say(f"{report['name']}: nothing was stored, {words.count(len(refused))} lines can't be used")
        for problem in refused[:SHOWN]:
            field = f"{problem['field']}: " if problem["field"] else ""
            render.say(f"  line {problem['line']}: {field}{problem['message']}")
        if len(refused) > SHOWN:
            render.say(f"  and {words.count(len(refused) - SHOWN)} more: --json has them")
        return
    known = "" if report["new"] else " (this content was known already)"
    render.say(
        f"{report['name']} version {report['version']}: {words.count(report['items'])} items, "
        f"{_slices(report['slices'])}, hash {report['hash'][:12]}{known}"
    )
    render.say("what it can prove: learnctl doctor")


def _slices(slices: dict[str, int]) -> str:
    return ", ".join(f"{name or 'no slice'} {words.count(n)}" for name, n in slices.items())


def _text(file: Path) -> str:
    return _reading(file, lambda: file.read_text(encoding="utf-8"))


def _readable(file: Path) -> None:
    def touch() -> str:
        with file.open("rb"):
            return ""

    _reading(file, touch)


def _reading(file: Path, work: Callable[[], str]) -> str:
    """Raises: Refused where the file can't be read."""
    try:
        return work()
    except OSError as error:
        raise Refused(f"{file} can't be read: {error.strerror}", hint="name a file that is there") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{file} is not UTF-8: {error}", hint="convert it, as with iconv -t utf-8") from error
