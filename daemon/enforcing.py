"""Which policy is in force: a file's, unless it promises what its sets can't prove, or loosens unapproved.

Owns: the ruling between the policy in force and the file's. Refuses to compare options itself (`policies.loosening`,
`daemon.promises`). Called by `daemon.service` at start and reload, and by `daemon.doctor`.
"""

import structlog
from sqlalchemy.orm import Session

from daemon import held_policies, probes, promises
from daemon.policyfile import probe_options
from policies.errors import Misconfigured
from policies.loosening import compared, loosened
from policies.policy import Policy
from policies.power import Shortfall

logger = structlog.get_logger()


def rule(session: Session, deployment: str, policy: Policy, before: Policy | None, now: float) -> Policy:
    """The policy that is in force from now on: `policy`, or `before` while what it loosens waits for a person.

    Raises: Misconfigured where it newly promises what the accepted sets can't prove.
    """
    why = looser(before, policy)
    if before is not None and why and held_policies.approved(session, deployment) != policy.hash:
        held_policies.hold(session, deployment, policy, why, now)
        return before
    new = newly_broken(session, deployment, policy, before)
    if new:
        more = f" (and {len(new) - 1} more)" if len(new) > 1 else ""
        raise Misconfigured(f"{deployment}: {new[0].message}{more}", hint=new[0].hint)
    for each in promises.broken(session, deployment, policy):
        logger.warning("a promise that the sets can't prove", deployment=deployment, why=each.message, hint=each.hint)
    held_policies.release(session, deployment)
    return policy


def looser(before: Policy | None, policy: Policy) -> tuple[str, ...]:
    """One sentence for each way in which `policy` lets more through than `before`, by its gates or by what is measured."""
    if before is None:
        return ()
    found = [*loosened(before.gates, policy.gates)]
    for name in probes.NAMES:
        rules = probes.load(name).LOOSER
        found += compared(f"probes.{name}", rules, probe_options(before, name), probe_options(policy, name))
    return tuple(found)


def newly_broken(session: Session, deployment: str, policy: Policy, before: Policy | None) -> list[Shortfall]:
    """Of what the accepted sets can't prove, what the policy in force didn't promise already.

    A promise that was in force stays: a service that doesn't come back at night because a set is short or spent would be
    worse than candidates that stay inconclusive.
    """
    old = {each.message for each in promises.broken(session, deployment, before)} if before is not None else set()
    return [each for each in promises.broken(session, deployment, policy) if each.message not in old]
