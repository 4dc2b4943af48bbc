"""Who is at the control socket, and whether anybody serves it: kept apart so that learnctl needs no web framework.

Owns: names and roles of users as the kernel tells them (uids). Refuses to know commands and routes. Called by
`daemon.api`, `daemon.ctl` and `daemon.doctor`.
"""

import grp
import os
import pwd
import socket
from contextlib import suppress
from pathlib import Path

OPERATOR, READER = "operator", "reader"


def actor_of(uid: int) -> str:
    """A uid as the audit log names it: `alice (uid 1000)`, or the bare uid where it has no name."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def role_of(uid: int, operators: str) -> str:
    """Operator: root, the service's own user, and members of the group `operators` ("": nobody else); else reader."""
    if uid in (0, os.geteuid()):
        return OPERATOR
    with suppress(KeyError):
        person = pwd.getpwuid(uid)
        if operators and grp.getgrnam(operators).gr_gid in os.getgrouplist(person.pw_name, person.pw_gid):
            return OPERATOR
    return READER


def listens(path: Path) -> bool:
    """Whether somebody answers at a Unix socket; a path that can't be one has nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
        return probe.connect_ex(os.fsencode(path)) == 0
    return False
