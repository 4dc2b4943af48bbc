"""`learnctl doctor` and `learnctl config check`: findings, each with what to do.

Owns: how findings read and which exit code they have. Refuses to check anything itself (`daemon.findings`,
`daemon.doctor`). Called by `daemon.ctl`.
"""

from dataclasses import asdict

import typer

from daemon import findings
from daemon.cli import MISCONFIGURED, REFUSED
from daemon.ctl import client, render
from daemon.ctl.shared import Json, config_of
from daemon.doctor import examine

MARKS = {findings.OK: "ok", findings.NOTE: "note", findings.ERROR: "ERROR"}


def config_check(context: typer.Context, json: Json = False) -> None:
    """Read the configuration and its policies strictly, and look at the model folders. Starts nothing.

    Exit 78 where something must be corrected.

    Example: learnctl --config learnd.toml config check
    """
    _tell(findings.check_files(client.find(config_of(context))), json=json, code=MISCONFIGURED)


def doctor(context: typer.Context, json: Json = False) -> None:
    """Look at everything learnd needs here, and say what to do about what is wrong. Exit 1 where something is.

    Example: learnctl doctor
    """
    _tell(examine(client.find(config_of(context))), json=json, code=REFUSED)


def _tell(found: list[findings.Finding], *, json: bool, code: int) -> None:
    worst = findings.worst(found)
    if json:
        render.dump({"ok": worst != findings.ERROR, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            render.say(f"{MARKS[finding.level]:<6} {finding.check:<14} {finding.message}")
            if finding.hint and finding.level != findings.OK:
                render.say(f"{'':<21} hint: {finding.hint}")
        errors = sum(finding.level == findings.ERROR for finding in found)
        render.say(f"{errors} to correct" if errors else "nothing is wrong")
    if worst == findings.ERROR:
        raise typer.Exit(code)
