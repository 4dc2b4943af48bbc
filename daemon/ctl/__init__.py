"""learnctl: what a person asks learnd and tells it. Reading needs no daemon; writing goes through its socket.

Owns: the list of commands and what they share (`--config`, `--json`, exit codes). Refuses to know queries
(`daemon.views`) and rules. Called by the console script, by tests, and by hand.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from daemon import logs
from daemon.cli import Guarded
from daemon.ctl import acting, auditing, bringing, care, holding, reading, showing

app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Look at learnd, tell it what to do, and prove what it did. Every command takes --json and --help.",
)


@app.callback()
def configured(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", envvar="LEARND_CONFIG", help="learnd.toml; else ./ or /etc/learnd/ has it."),
    ] = None,
) -> None:
    """Remember which configuration is meant; it is read when a command needs it."""
    context.obj = config
    context.call_on_close(logs.quiet())


goldens = typer.Typer(
    cls=Guarded, no_args_is_help=True, rich_markup_mode=None, help="Sets of items that judge versions."
)
feedback = typer.Typer(cls=Guarded, no_args_is_help=True, rich_markup_mode=None, help="What users said.")
quarantine = typer.Typer(
    cls=Guarded, no_args_is_help=True, rich_markup_mode=None, help="Records that are held back, and letting them go."
)
audit = typer.Typer(cls=Guarded, no_args_is_help=True, rich_markup_mode=None, help="Prove what was done, and why.")
config = typer.Typer(cls=Guarded, no_args_is_help=True, rich_markup_mode=None, help="The configuration's files.")

for name, command in (
    ("status", showing.status),
    ("show", showing.show),
    ("cycles", reading.cycles),
    ("versions", reading.versions),
    ("costs", reading.costs),
    ("drift", reading.drift),
    ("dead-letters", reading.dead_letters),
    ("commands", reading.commands),
    ("train", acting.train),
    ("approve", acting.approve),
    ("reject", acting.reject),
    ("promote", acting.promote),
    ("rollback", acting.rollback),
    ("pause", acting.pause),
    ("resume", acting.resume),
    ("backtest", auditing.backtest),
    ("doctor", care.doctor),
):
    app.command(name)(command)
goldens.command("import")(bringing.goldens_import)
goldens.command("list")(bringing.goldens_list)
feedback.command("import")(bringing.feedback_import)
quarantine.command("list")(holding.quarantine_list)
quarantine.command("release")(holding.quarantine_release)
quarantine.command("drop")(holding.quarantine_drop)
audit.command("verify")(auditing.verify)
audit.command("export")(auditing.export)
audit.command("replay")(auditing.replay)
config.command("check")(care.config_check)
app.add_typer(goldens, name="goldens")
app.add_typer(feedback, name="feedback")
app.add_typer(quarantine, name="quarantine")
app.add_typer(audit, name="audit")
app.add_typer(config, name="config")


def main() -> None:
    """The console script."""
    sys.exit(app(prog_name="learnctl"))
