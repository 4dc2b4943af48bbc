"""A policy that lets more through than the one in force: it waits here until a person approves it.

Owns: what waits for each deployment, and the approval. Refuses to say what is looser (`policies.loosening`) and to put
anything into force (`daemon.enforcing`). Called by `daemon.enforcing`, `daemon.service`, `daemon.commands`,
`daemon.command_outcomes` and `daemon.views`.
"""

import json
from collections.abc import Iterable
from typing import Any

import structlog
from sqlalchemy.orm import Session

from daemon.audit import log as audit
from daemon.tables import Setting
from policies.errors import Refused
from policies.policy import Policy

logger = structlog.get_logger()


def waiting(session: Session, deployment: str) -> dict[str, Any] | None:
    """The policy that waits for an approval: `hash`, `why` (sentences), `at`; None where there is none."""
    row = session.get(Setting, _held(deployment))
    return json.loads(row.value) if row else None


def named(session: Session, deployment: str, prefix: str) -> str:
    """The hash of the waiting policy that `prefix` begins.

    Raises: Refused where none waits, or another one does.
    """
    held = waiting(session, deployment)
    if held is None:
        raise Refused(f"no policy of {deployment} waits for an approval", hint="learnctl status shows what waits")
    if not prefix or not str(held["hash"]).startswith(prefix):
        raise Refused(f"{prefix!r} is not the policy that waits", hint=f"{str(held['hash'])[:12]} is")
    return str(held["hash"])


def hold(session: Session, deployment: str, policy: Policy, why: tuple[str, ...], now: float) -> None:
    """Let `policy` wait, with an audit entry the first time."""
    held = waiting(session, deployment)
    if held is not None and held["hash"] == policy.hash:
        return
    _put(session, _held(deployment), json.dumps({"hash": policy.hash, "why": list(why), "at": now}))
    logger.warning("a looser policy waits for an approval", deployment=deployment, policy=policy.hash, why=list(why))
    audit.append(
        session,
        now=now,
        actor="configuration",
        action="policy:held",
        reason=f"looser than the one in force: {'; '.join(why)}",
        deployment=deployment,
        policy_hash=policy.hash,
        facts={"why": list(why)},
    )


def release(session: Session, deployment: str) -> None:
    """Nothing waits any more: another policy came into force."""
    row = session.get(Setting, _held(deployment))
    if row is not None:
        session.delete(row)


def approve(session: Session, deployment: str, hash_: str) -> str | None:
    """Let the waiting policy come into force at the service's next look; why not, None where it will."""
    held = waiting(session, deployment)
    if held is None or held["hash"] != hash_:
        return "that policy doesn't wait any more"
    _put(session, _approved(deployment), hash_)
    _put(session, _held(deployment), json.dumps({**held, "look": True}))
    return None


def approved(session: Session, deployment: str) -> str:
    """The hash of the policy that was last approved, "" where none was."""
    row = session.get(Setting, _approved(deployment))
    return row.value if row else ""


def take(session: Session, deployments: Iterable[str]) -> bool:
    """Whether an approval came since this was last asked: the files are worth another look."""
    found = False
    for name in deployments:
        held = waiting(session, name)
        if held is not None and held.pop("look", False):
            _put(session, _held(name), json.dumps(held))
            found = True
    return found


def _held(deployment: str) -> str:
    return f"policy-held/{deployment}"


def _approved(deployment: str) -> str:
    return f"policy-approved/{deployment}"


def _put(session: Session, name: str, value: str) -> None:
    session.merge(Setting(name=name, value=value))
    session.flush()
