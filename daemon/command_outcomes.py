"""What becomes of commands in the loop: what needs no action at once, the rest when their action was carried out.

Owns: closing a command's row with its answer and its audit entry. Refuses to say whether a command can be done
(`policies.decide.answer`). Called by `daemon.loop` and `daemon.holding`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon import held_policies
from daemon.answer import Answer
from daemon.audit import log as audit
from daemon.commands import POLICY
from daemon.tables import CommandRow, Slot
from policies.actions import Action, Cancel
from policies.commands import answer as why_not
from policies.model import CommandView, Outcome, Snapshot
from policies.policy import Policy


def settle_at_once(session: Session, slot: Slot, policy: Policy, now: float, snapshot: Callable[[], Snapshot]) -> None:
    """Carry out pause, resume and the approval of a policy; refuse with its reason what can't be done here and now."""
    rows = session.scalars(
        select(CommandRow)
        .where(CommandRow.deployment == slot.deployment, CommandRow.tenant == slot.tenant, CommandRow.outcome == "")
        .order_by(CommandRow.id)
    ).all()
    for row in rows:
        if row.verb in ("pause", "resume"):
            slot.paused_by = row.actor if row.verb == "pause" else ""
            close(session, row, "done", "paused" if slot.paused_by else "resumed", now)
            continue
        if row.verb == POLICY:
            why = held_policies.approve(session, slot.deployment, row.version)
            close(session, row, "refused" if why else "done", why or "it comes into force now", now)
            continue
        view = CommandView(row.id, row.verb, row.actor, row.reason, row.version, row.at)
        refusal = why_not(view, snapshot(), policy)
        if refusal is not None:
            close(session, row, "refused", refusal, now)


def conclude(session: Session, action: Action, answer: Answer, now: float) -> str:
    """Close the command that asked for this action, once it was carried out; the actor's name, "" where nobody asked."""
    row = session.get(CommandRow, getattr(action, "command", 0) or 0)
    if row is None:
        return ""
    waits_for_rollback = isinstance(action, Cancel) and row.verb == "rollback"
    refused = answer.outcome in (Outcome.REFUSED, Outcome.FAILED, Outcome.MISSERVED)
    if (refused or not answer.error) and not waits_for_rollback:
        text = f"{answer.outcome.value}: {answer.note}" if answer.note else answer.outcome.value
        close(session, row, "refused" if refused else "done", text, now)
    return row.actor


def close(
    session: Session,
    row: CommandRow,
    outcome: str,
    answer: str,
    now: float,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the answer into the command's row and, with `facts`, into the audit log."""
    row.outcome, row.answer, row.ended = outcome, answer, now
    audit.append(
        session,
        now=now,
        actor=row.actor,
        action=f"command:{row.verb}",
        reason=row.reason,
        deployment=row.deployment,
        version=row.version,
        facts={"command": row.id, "outcome": outcome, "answer": answer, "role": row.role, "tenant": row.tenant}
        | dict(facts or {}),
    )
