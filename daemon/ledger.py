"""The ledger's rows: which candidate met which items, and what it spent of each gate's error rate there.

Owns: how items are named (accepted sets by the hashes of their versions, the harness's tasks by the digest of their files,
judge records by their window) and that an evaluation spends once, however often it is judged. Refuses to know how large a
share is (`policies.ledger`). Called by `daemon.judging` (spends), `daemon.audit.replay` (reads) and `daemon.promises` and
`daemon.doctor` (look ahead).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon.codec import canonical
from daemon.policyfile import probe_options
from daemon.probes import lm_eval
from daemon.tables import Cycle, GoldenSet, LedgerRow, Slot
from policies import gates, ledger
from policies.ledger import Share
from policies.model import SetView
from policies.policy import Policy

WINDOW, TASKS = "improvement", "retention"  # the gates that judge a window's records, and tasks beside accepted sets
Sets = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """What one evaluation spends of one gate's error rate; `items` is their name, `sets` the accepted ones among them."""

    gate: str
    items: str
    share: Share
    sets: tuple[SetView, ...] = ()


def entries(
    session: Session,
    slot: Slot,
    cycle: Cycle,
    sets: Sets,
    policy: Policy,
    step: str = "candidate",
    tasks: Iterable[str] = (),
) -> tuple[Entry, ...]:
    """What the cycle's evaluation on these `sets` (name, role, hash, items) has spent or, until it is judged, will.

    `tasks`: the harness's tasks that were measured, NAME@DIGEST.
    """
    kept = of_evaluation(session, cycle.evaluation)
    if kept:
        return kept
    found = []
    asked = [gate for gate in gates.for_step(step) if gates.enabled(policy.gates, gate)]
    for gate in asked:
        ours = [each for each in sets if each["role"] == gates.ROLES.get(gate)]
        if gate == WINDOW:
            window = f"judge {slot.tenant}/{cycle.window_first}"
            share = ledger.of_window(_spent(session, slot.deployment, gate, window), policy.triggers.tries)
            found.append(Entry(gate, window, share))
        elif ours:
            name = named(ours, tasks if gate == TASKS else ())
            share = ledger.of_set(_spent(session, slot.deployment, gate, name), policy.ledger.candidates)
            found.append(Entry(gate, name, share, tuple(view(each) for each in ours)))
    return tuple(found)


def write(session: Session, slot: Slot, cycle: Cycle, candidate: str, spent: Iterable[Entry], now: float) -> None:
    """Store what the evaluation spends; what it has stored before stays."""
    if of_evaluation(session, cycle.evaluation):
        return
    for entry in spent:
        session.add(
            LedgerRow(
                deployment=slot.deployment,
                gate=entry.gate,
                items=entry.items,
                candidate=candidate,
                evaluation=cycle.evaluation,
                number=entry.share.number,
                share=entry.share.share,
                remaining=entry.share.left,
                at=now,
                sets=[[view.name, view.role, view.items, view.version] for view in entry.sets],
            )
        )


def of_evaluation(session: Session, evaluation: str) -> tuple[Entry, ...]:
    """What an evaluation has spent, by gate; nothing before it was judged, or where it is older than the ledger."""
    rows = session.scalars(select(LedgerRow).where(LedgerRow.evaluation == evaluation).order_by(LedgerRow.id))
    return tuple(
        Entry(
            row.gate, row.items, Share(row.number, row.share, row.remaining), tuple(SetView(*each) for each in row.sets)
        )
        for row in rows
    )


def upcoming(session: Session, deployment: str, policy: Policy) -> dict[str, Share]:
    """What the next candidate may spend on the accepted sets, and on the tasks as their files are now, by gate.

    Raises: Misconfigured where the tasks' files can't be read.
    """
    rows = session.scalars(
        select(GoldenSet).where(
            GoldenSet.deployment == deployment, GoldenSet.current.is_(True), GoldenSet.accepted_by != ""
        )
    )
    sets = [{"name": row.name, "role": row.role, "hash": row.hash} for row in rows]
    tasks = lm_eval.names(probe_options(policy, "lm_eval"))
    found = {}
    for gate, role in gates.ROLES.items():
        ours = [each for each in sets if each["role"] == role]
        if ours:
            spent = _spent(session, deployment, gate, named(ours, tasks if gate == TASKS else ()))
            found[gate] = ledger.of_set(spent, policy.ledger.candidates)
    return found


def shares(found: Iterable[Entry]) -> dict[str, Share]:
    """By gate, as `gates.judge_all` takes them."""
    return {entry.gate: entry.share for entry in found}


def sets(found: Iterable[Entry]) -> tuple[SetView, ...]:
    """The accepted sets, as `gates.judge_all` takes them."""
    return tuple(view for entry in found for view in entry.sets)


def named(sets: Sets, tasks: Iterable[str] = ()) -> str:
    """SHA-256 (hex) of the sets' names and versions, and of the tasks: another name where any of them is another.

    How a task is asked (its limit, metric, template) is no part of it: that begins nothing anew.
    """
    parts = [[each["name"], each["hash"]] for each in sets] + [[task, ""] for task in tasks]
    return hashlib.sha256(canonical(sorted(parts))).hexdigest()


def view(exported: Mapping[str, Any]) -> SetView:
    """A set as an evaluation's inputs name it."""
    return SetView(exported["name"], exported["role"], int(exported["items"]), str(exported["hash"])[:12])


def _spent(session: Session, deployment: str, gate: str, items: str) -> list[float]:
    rows = select(LedgerRow.share).where(
        LedgerRow.deployment == deployment, LedgerRow.gate == gate, LedgerRow.items == items
    )
    return list(session.scalars(rows.order_by(LedgerRow.id)))
