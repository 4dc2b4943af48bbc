"""Options that commands share, in one wording.

Owns: their names and help. Called by the modules of `daemon.ctl`.
"""

from pathlib import Path
from typing import Annotated

import typer

from daemon.config import Settings
from policies.errors import Misconfigured

Json = Annotated[bool, typer.Option("--json", help="Write JSON for machines.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10000, help="At most so many, newest first.")]
Only = Annotated[str, typer.Option("--deployment", "-d", help="Only this deployment.")]


def config_of(context: typer.Context) -> Path | None:
    """What --config or LEARND_CONFIG named."""
    root = context.find_root()
    return root.obj if isinstance(root.obj, Path) else None


def the_deployment(settings: Settings, named: str) -> str:
    """The named deployment, or the only one there is.

    Raises: Misconfigured where it isn't configured, or several are and none is named.
    """
    names = sorted(settings.deployments)
    if named in names:
        return named
    if not named and len(names) == 1:
        return names[0]
    said = f"no deployment {named!r} is configured" if named else "several deployments are configured"
    raise Misconfigured(said, hint=f"--deployment: one of {', '.join(names)}")
