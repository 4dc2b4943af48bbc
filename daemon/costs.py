"""What jobs took, as rows: one a job that came to an end, written with its outcome and never twice.

Owns: reading a job's usage, the `costs` rows, a version's sum of them, and what a method's earlier attempts took and
brought. Refuses to price (`policies.costs`) and to measure (`daemon.jobs.usage`). Called by whatever concludes a job
(`daemon.judging`, `daemon.serving`, `daemon.returning`, `daemon.act`, `daemon.looking`), and by `daemon.observe`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon.context import Context
from daemon.jobs import JOB, RESULT, read_json
from daemon.jobs.usage import device_in, usage_in
from daemon.tables import CostRow, Cycle, Slot, VerdictRow, VersionRow
from policies import costs
from policies.model import Experience, Usage

RECENT = 5  # attempts of a method that its expectation is the mean of
LOOKED_AT = 50  # cycles
BROUGHT = frozenset({"settled", "unproven", "shadow", "expired"})  # how cycles end whose candidate passed and held


@dataclass(frozen=True, slots=True)
class Taken:
    """What one job took, on which device, and whose counters told the energy ("" where nobody said)."""

    job: str
    kind: str
    usage: Usage
    device: str = ""
    counters: str = ""


def taken(context: Context, key: str) -> Taken | None:
    """What a job took by its folder, or, of one that runs and has yet to write there, how long it ran.

    None where that isn't known.
    """
    folder, seen = context.jobs.folder(key), context.jobs.find(key)
    usage, result = usage_in(folder), read_json(folder / RESULT) or {}
    device, counters = device_in(folder)
    if usage is None and seen.state == "running":
        ran, asked = max(0.0, context.clock.now() - seen.started), (read_json(folder / JOB) or {}).get("device")
        usage = Usage(ran, gpu_seconds=ran if asked == "gpu" else None)
    if usage is None:
        return None
    tokens = result.get("tokens")
    usage = replace(usage, tokens=int(tokens)) if isinstance(tokens, int) else usage
    return Taken(key, seen.kind, usage, device, counters)


def write(session: Session, context: Context, cycle: Cycle | None, version: str, spent: Taken | None) -> None:
    """Store what a job took and add it to the evidence of the version that it was about; once, however often."""
    if spent is None or session.scalar(select(CostRow.id).where(CostRow.job == spent.job)) is not None:
        return
    session.add(
        CostRow(
            job=spent.job,
            kind=spent.kind,
            deployment=context.deployment.name,
            cycle=cycle.id if cycle is not None else 0,
            version=version,
            method=cycle.method if cycle is not None else "",
            at=context.clock.now(),
            device=spent.device,
            counters=spent.counters,
            **_columns(spent.usage),
            money=costs.money(spent.usage, context.policy.costs),
            currency=context.policy.costs.currency,
        )
    )
    session.flush()
    row = session.get(VersionRow, version) if version else None
    if row is not None:
        rows = session.scalars(select(CostRow).where(CostRow.deployment == row.deployment, CostRow.version == version))
        row.evidence = {**row.evidence, "cost": summed(list(rows))}


def summed(rows: Iterable[CostRow]) -> dict[str, Any]:
    """Rows added up: a usage's quantities (None where nobody could say), `money` by currency, the `devices` that they
    ran on, and the `counters` that their energy is by."""
    kept, money = list(rows), dict[str, float]()
    for row in kept:
        if row.money is not None:
            money[row.currency] = money.get(row.currency, 0.0) + row.money
    names = {"devices": {row.device for row in kept}, "counters": {row.counters for row in kept}}
    return {
        **_columns(costs.total([_usage(row) for row in kept])),
        "money": money,
        **{name: sorted(found - {""}) for name, found in names.items()},
    }


def experience(session: Session, slot: Slot) -> tuple[Experience, ...]:
    """What the last judged attempts of each method took and brought, by method; of older ones nothing is known.

    Brought: the improvement gate's estimate on the judge records, nought where the candidate was turned down.
    """
    judged = session.execute(
        select(Cycle, VerdictRow.claims)
        .join(VerdictRow, VerdictRow.evaluation == Cycle.evaluation)
        .where(Cycle.slot == slot.id, Cycle.ended.is_not(None), VerdictRow.gate == "improvement")
        .order_by(Cycle.id.desc(), VerdictRow.id.desc())
        .limit(LOOKED_AT)
    )
    attempts: dict[int, tuple[str, float]] = {}
    for cycle, claims in judged:
        gain = next((c["estimate"] for c in claims if c["name"] == "gain" and c["estimate"] is not None), None)
        if gain is not None and cycle.id not in attempts:
            attempts[cycle.id] = (cycle.method, max(0.0, float(gain)) if cycle.outcome in BROUGHT else 0.0)
    spent: dict[int, list[Usage]] = {}
    for row in session.scalars(select(CostRow).where(CostRow.cycle.in_(list(attempts))).order_by(CostRow.id)):
        spent.setdefault(row.cycle, []).append(_usage(row))
    found: dict[str, list[tuple[Usage, float]]] = {}
    for number, (method, gain) in attempts.items():
        past = found.setdefault(method, []) if number in spent else None
        if past is not None and len(past) < RECENT:
            past.append((costs.total(spent[number]), gain))
    return tuple(
        Experience(
            method, len(past), costs.mean([usage for usage, _ in past]), sum(gain for _, gain in past) / len(past)
        )
        for method, past in sorted(found.items())
    )


def _columns(usage: Usage) -> dict[str, Any]:
    return {name: getattr(usage, name) for name in Usage.__slots__}


def _usage(row: CostRow) -> Usage:
    return Usage(**{name: getattr(row, name) for name in Usage.__slots__})
