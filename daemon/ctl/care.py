"""`learnctl doctor` and `learnctl config check`: findings, each with what to do.

Owns: how findings read and which exit code they have. Refuses to check anything itself (`daemon.findings`,
`daemon.doctor`). Called by `daemon.ctl`.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from daemon.cli import MISCONFIGURED, REFUSED
from daemon.ctl import client, render
from daemon.ctl.shared import Json, config_of

if TYPE_CHECKING:
    from daemon.findings import Finding

MARKS = {"ok": "ok", "note": "note", "error": "ERROR"}


def config_check(context: typer.Context, json: Json = False) -> None:
    """Read configuration, policies and model folders strictly.

    Where there is a database, also whether its sets can prove what the policies promise. Starts nothing.

    Exit 78 where something must be corrected.

    Example: learnctl --config learnd.toml config check
    """
    from daemon.config import load
    from daemon.doctor import check_promises
    from daemon.findings import check_files, worst

    path = client.find(config_of(context))
    found = check_files(path)
    if worst(found) != "error":
        found += check_promises(load(path))
    _tell(found, json=json, code=MISCONFIGURED)


def doctor(context: typer.Context, json: Json = False) -> None:
    """What is wrong here, and what to do about it.

    Exit 1 where something is wrong.

    Example: learnctl doctor
    """
    from daemon.doctor import examine

    _tell(examine(client.find(config_of(context))), json=json, code=REFUSED)


def _tell(found: "list[Finding]", *, json: bool, code: int) -> None:
    wrong = sum(finding.level == "error" for finding in found)
    if json:
        render.dump({"ok": not wrong, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            render.say(f"{MARKS[finding.level]:<6} {finding.check:<14} {finding.message}")
            if finding.hint and finding.level != "ok":
                render.say(f"{'':<21} hint: {finding.hint}")
        render.say(f"{wrong} to correct" if wrong else "nothing is wrong")
    if wrong:
        raise typer.Exit(code)
