"""What a deployment's accepted sets can prove of what its policy promises, with what the ledger has left of them.

Owns: the sets as the core needs them (sizes, slices, disagreement seen). Refuses to compute power (`policies.power`).
Called by `daemon.enforcing`, `daemon.doctor` and `learnctl config check`.
"""

from sqlalchemy.orm import Session

from daemon import evidence, goldens, ledger
from policies.ledger import charged
from policies.model import SetView
from policies.policy import Policy
from policies.power import Shortfall, power


def sets(session: Session, deployment: str) -> list[SetView]:
    """The accepted sets, with their slices and how much versions disagreed on them last time."""
    seen = evidence.disagreement(session, deployment)
    return [
        SetView(
            row["name"],
            row["role"],
            row["items"],
            row["version"],
            seen.get(row["name"]),
            tuple((row["slices"] or {}).items()),
        )
        for row in goldens.listing(session, deployment)
        if row["current"] and row["accepted_by"]
    ]


def broken(session: Session, deployment: str, policy: Policy) -> list[Shortfall]:
    """What the next candidate couldn't prove on the accepted sets, however good it is."""
    shares = ledger.upcoming(session, deployment, policy)
    return power(charged(policy.gates, shares), sets(session, deployment))
