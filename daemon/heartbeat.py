"""The row by which anybody tells a running service from a dead one, and the policies that were in force at its last beat.

Owns: two kinds of settings rows. Refuses to know what a service does. Called by `daemon.service`; read by `daemon.views`.
"""

import json
import os
import platform
from collections.abc import Mapping

from sqlalchemy.orm import Session

from daemon.tables import Setting

SERVICE = "service"


def beat(
    session: Session, now: float, policies: Mapping[str, str], *, since: float | None = None, stopped: bool = False
) -> None:
    """Write that this process lives (or has stopped), since when it runs, and the policies' hashes by deployment."""
    row = session.get(Setting, SERVICE)
    value = json.loads(row.value) if row else {}
    value |= {"pid": 0 if stopped else os.getpid(), "host": platform.node(), "beat": now}
    if since is not None:
        value["since"] = since
    _put(session, SERVICE, json.dumps(value))
    for name, hash_ in policies.items():
        _put(session, f"policy/{name}", hash_)


def last_policy(session: Session, deployment: str) -> str:
    """The hash of the policy that was last in force, "" where there was none."""
    row = session.get(Setting, f"policy/{deployment}")
    return row.value if row else ""


def _put(session: Session, name: str, value: str) -> None:
    row = session.get(Setting, name)
    if row is None:
        session.add(Setting(name=name, value=value))
    else:
        row.value = value
