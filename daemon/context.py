"""The hands of one slot: everything `observe` and `act` may touch, handed over by `daemon.service` in one value.

Owns: nothing. Called by `daemon.loop`, which passes it on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from daemon.clock import Clock
from daemon.config import Deployment
from daemon.jobs import Jobs
from daemon.registry import Registry
from daemon.targets import Target
from policies.policy import Policy


@dataclass(frozen=True, slots=True)
class Context:
    """One deployment's settings and policy with the effects behind their contracts.

    `state` is the service's folder; `token` is asked for at every effect on a target, so that a lost lease shows;
    `policy_of` gives the policy that a hash names (an older one, for a cycle that started under it).
    """

    engine: Engine
    deployment: Deployment
    policy: Policy
    jobs: Jobs
    registry: Registry
    target: Target
    clock: Clock
    state: Path
    database: str
    token: Callable[[], int]
    policy_of: Callable[[str], Policy]
    target_splits: bool = False
