"""What learning cost, by deployment and month: attempts, promotions, hours, energy, tokens and money, as plain dicts.

Owns: the query behind `learnctl costs`. Refuses to format. Called by `daemon.ctl` and `daemon.api`. Months are UTC.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon.costs import summed
from daemon.tables import CostRow, Cycle, Decision, Slot
from daemon.views import known
from policies.model import Outcome

Key = tuple[str, str]  # deployment, month as 2026-11
SERVED = (Outcome.PROMOTED.value, Outcome.RAMPING.value)


def months(session: Session, *, deployment: str = "") -> list[dict[str, Any]]:
    """Newest month first. `attempts` began in it, of which (or of earlier ones) `promoted` began to serve in it; what
    jobs took counts where they ended, None where nobody could measure it, `money` by currency.

    Raises: Refused where no slot has that deployment.
    """
    only = known(session, deployment) if deployment else ""
    jobs: dict[Key, list[CostRow]] = {}
    for row in session.scalars(select(CostRow).where(*([CostRow.deployment == only] if only else []))):
        jobs.setdefault(_key(row.deployment, row.at), []).append(row)
    attempts, promoted = _attempts(session, only), _promoted(session, only)
    keys = sorted(sorted({*jobs, *attempts, *promoted}), key=lambda key: key[1], reverse=True)
    return [
        {
            "deployment": name,
            "month": month,
            "attempts": attempts.get((name, month), 0),
            "promoted": len(promoted.get((name, month), ())),
            "jobs": len(jobs.get((name, month), ())),
            **summed(jobs.get((name, month), ())),
        }
        for name, month in keys
    ]


def _attempts(session: Session, only: str) -> dict[Key, int]:
    query = select(Slot.deployment, Cycle.started).join(Slot, Slot.id == Cycle.slot)
    counted: dict[Key, int] = {}
    for name, at in session.execute(query.where(Slot.deployment == only) if only else query):
        counted[_key(name, at)] = counted.get(_key(name, at), 0) + 1
    return counted


def _promoted(session: Session, only: str) -> dict[Key, set[int]]:
    """The cycles whose candidate began to serve, by when."""
    query = (
        select(Slot.deployment, Decision.cycle, Decision.at)
        .join(Slot, Slot.id == Decision.slot)
        .where(Decision.action == "Promote", Decision.outcome.in_(SERVED))
    )
    found: dict[Key, set[int]] = {}
    for name, cycle, at in session.execute(query.where(Slot.deployment == only) if only else query):
        found.setdefault(_key(name, at), set()).add(cycle)
    return found


def _key(name: str, at: float) -> Key:
    return name, datetime.fromtimestamp(at, UTC).strftime("%Y-%m")
