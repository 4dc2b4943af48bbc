"""What both commands share: errors become a message, a hint and an exit code; never a traceback for one of the four.

Owns: exit codes and how an error reads. Refuses to know any command. Called by `daemon.main` and `daemon.ctl`.
"""

import typing

import typer
from typer.core import TyperGroup

from policies.errors import Corrupt, LearndError, Misconfigured, Refused, Transient

REFUSED, USAGE, UNAVAILABLE, MISCONFIGURED = 1, 2, 69, 78
CODES: dict[type[LearndError], int] = {
    Refused: REFUSED,
    Corrupt: REFUSED,
    Transient: UNAVAILABLE,
    Misconfigured: MISCONFIGURED,
}


def exit_code(error: LearndError) -> int:
    """The exit code of sysexits(3) that says who must act: 69 the world, 78 whoever wrote the configuration, else 1."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), REFUSED)


def report(error: LearndError, program: str) -> int:
    """Write `program: message` and its hint to standard error, and return the exit code."""
    typer.echo(f"{program}: {error}", err=True)
    if error.hint:
        typer.echo(f"  hint: {error.hint}", err=True)
    return exit_code(error)


class Guarded(TyperGroup):
    """A group of commands whose errors end as `report` says."""

    def invoke(self, ctx: typing.Any) -> typing.Any:
        """Run the command.

        Raises: typer.Exit with the code of the error.
        """
        try:
            return super().invoke(ctx)
        except LearndError as error:
            raise typer.Exit(report(error, ctx.find_root().info_name or "learnd")) from error
