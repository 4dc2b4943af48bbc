"""What systemd is told: ready, reloading, stopping, a status line, and that the watchdog need not bark.

sd_notify(3) spoken over its socket directly: the repository's own `systemd/` folder would shadow python-systemd.
Owns: the protocol. Refuses to know when something is said. Called by `daemon.service`.
"""

import os
import socket
import time
from collections.abc import Mapping

LONGEST_STATUS = 1000


def notify(*lines: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send `READY=1`, `STATUS=…`, `WATCHDOG=1`, … as one datagram; whether the service manager could be told.

    False outside of systemd, and when its socket doesn't answer: then it is the manager's watchdog that acts, and a
    service that stopped serving because nobody listened would serve nobody. Newlines in a line become spaces;
    `RELOADING=1` gets the monotonic time that systemd wants beside it.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    said = [" ".join(line.splitlines())[:LONGEST_STATUS] for line in lines]
    if "RELOADING=1" in said:
        said.append(f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    # An abstract socket's name begins with a null byte, which the environment can't carry: @ stands for it.
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect(name)
            channel.sendall("\n".join(said).encode())
        except OSError:
            return False
    return True


def watchdog_seconds(environment: Mapping[str, str] = os.environ, pid: int | None = None) -> float:
    """Seconds within which `WATCHDOG=1` is expected (0: no watchdog, or it watches another process)."""
    watched = environment.get("WATCHDOG_PID", "")
    if watched and watched != str(pid or os.getpid()):
        return 0.0
    micros = environment.get("WATCHDOG_USEC", "")
    return int(micros) / 1e6 if micros.isdigit() else 0.0
