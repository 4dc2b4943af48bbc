"""learnd: run the service, write a configuration to begin with, play the demo.

Owns: the command line, logging, signals. Refuses to wire anything (`daemon.service`) and to know rules. Called by the
console script and by systemd.
"""

import os
import signal
import sys
import threading
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from daemon.cli import Guarded
from policies.errors import Misconfigured, Refused

app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A continual-learning daemon: feedback in, drift noticed, the model repaired, promoted only with proof.",
)

# Feedback is private: no library may call home or fetch anything, in this process or in a job.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@app.command()
def run(
    config: Annotated[Path, typer.Option("--config", "-c", envvar="LEARND_CONFIG", help="learnd.toml.")],
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Work off what is there, then exit 0, instead of staying.")
    ] = False,
) -> None:
    """Run the service in the foreground.

    SIGTERM stops it cleanly, SIGHUP reloads configuration and policies.

    Example: learnd run --config learnd.toml
    """
    os.environ.update(OFFLINE)
    from daemon import logs
    from daemon.config import load
    from daemon.doctor import foreign_owners
    from daemon.service import Service

    settings = load(config)
    logs.configure(settings.log_level)
    for name, owners in foreign_owners().items():
        raise Misconfigured(
            f"the import name {name} also belongs to {', '.join(owners)}", hint="install learnd into a venv of its own"
        )
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)  # what users said is nobody else's
    service, stop = Service(settings), threading.Event()

    def leave(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        service.wake()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGHUP, lambda _number, _frame: service.reload())
    service.run(until_idle=until_idle, stop=stop)


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that has no learnd.toml yet.")]) -> None:
    """Write a configuration that runs as it is.

    A commented learnd.toml, a policy, golden sets and a little model; and what to do next.

    Example: learnd init my-learnd
    """
    from daemon import starting

    try:
        written = starting.write(folder)
    except OSError as error:
        raise Refused(f"{folder} can't be written: {error.strerror}", hint="name a folder you may write to") from error
    for path in written:
        typer.echo(f"wrote {path}")
    typer.echo(starting.next_steps(folder))


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Option("--dir", help="Where everything lies afterwards.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write what happened as JSON.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another run of the same story.")] = 0,
) -> None:
    """Play a small product's weeks through the real loop.

    Drift, an update, a poisoned wave, a refreshed teacher, a rollback.

    Example: learnd demo --dir demo-run
    """
    os.environ.update(OFFLINE)
    from daemon.demo import script

    raise typer.Exit(script.run(folder, report, seed))


@app.command()
def version() -> None:
    """The installed release.

    Example: learnd version
    """
    try:
        typer.echo(f"learnd {installed('learnd')}")
    except PackageNotFoundError:
        typer.echo("learnd from a checkout")


def main() -> None:
    """The console script."""
    sys.exit(app(prog_name="learnd"))
