"""What persons ask for: rows that the loop answers. Nothing else changes the world.

Owns: which verbs there are, who may give them, when a reason is needed, and that an import of goldens has an actor.
Refuses to carry anything out (`daemon.loop`).
Called by `daemon.api`, and by `learnctl` where the daemon is down.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon.audit import log
from daemon.codec import to_json
from daemon.peers import OPERATOR
from daemon.tables import CommandRow, Slot, VersionRow
from policies.errors import Refused

VERBS = ("train", "approve", "reject", "promote", "rollback", "pause", "resume")
HELD = ("release", "drop")  # carried out at once (`daemon.holding`), not by the loop
# Production changes, or a candidate or records are thrown away: whoever reads the audit log will ask why.
REASONED = ("approve", "reject", "promote", "rollback", *HELD)
LONGEST_REASON = 2000


def insert(
    session: Session,
    *,
    deployment: str,
    verb: str,
    actor: str,
    role: str,
    now: float,
    reason: str = "",
    version: str = "",
    tenant: str = "",
) -> dict[str, Any]:
    """Store a command and return its row; `version` may be a prefix.

    Raises: Refused where the actor may not, the verb, slot or version isn't known, or a reason is missing.
    """
    if verb not in VERBS:
        raise Refused(f"{verb!r} is no command", hint=f"one of {', '.join(VERBS)}")
    row = given(
        session,
        deployment=deployment,
        verb=verb,
        actor=actor,
        role=role,
        reason=reason,
        now=now,
        version=version,
        tenant=tenant,
    )
    return plain(row)


def given(
    session: Session,
    *,
    deployment: str,
    verb: str,
    actor: str,
    role: str,
    reason: str,
    now: float,
    version: str = "",
    tenant: str = "",
) -> CommandRow:
    """The row of a command whose verb the caller knows, still open.

    Raises: Refused where the actor may not, slot or version isn't known, or a reason is missing.
    """
    if role != OPERATOR:
        raise Refused(
            f"{actor} may look, not command", hint="ask an operator, or be made a member of the group `operators` names"
        )
    if verb in REASONED and not reason.strip():
        said = "changes what is learned" if verb in HELD else "changes production"
        raise Refused(f"{verb} {said}: it needs a reason", hint='add --reason "why", it goes into the audit log')
    if len(reason) > LONGEST_REASON:
        raise Refused(f"the reason has {len(reason)} characters", hint=f"at most {LONGEST_REASON}")
    _slot(session, deployment, tenant)
    row = CommandRow(
        deployment=deployment,
        tenant=tenant,
        verb=verb,
        version=resolve(session, version, deployment) if version else "",
        actor=actor,
        role=role,
        reason=reason.strip(),
        at=now,
        ended=None,
    )
    session.add(row)
    session.flush()
    return row


def resolve(session: Session, prefix: str, deployment: str = "") -> str:
    """The one version that `prefix` means: a whole name, `deployment@hex…`, or the beginning of the hex alone.

    Raises: Refused where no version or several fit.
    """
    query = select(VersionRow.name).order_by(VersionRow.created.desc())
    if deployment:
        query = query.where(VersionRow.deployment == deployment)
    names = list(session.scalars(query))
    fitting = [name for name in names if name.startswith(prefix) or name.partition("@")[2].startswith(prefix)]
    if prefix in names:
        return prefix
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise Refused(f"{prefix!r} could be {len(fitting)} versions", hint=f"one of {', '.join(fitting[:5])}")
    known = f"newest: {', '.join(names[:3])}" if names else "there is no version yet"
    raise Refused(f"no version {prefix!r}", hint=f"{known}; learnctl versions lists all")


def listing(session: Session, *, limit: int = 50, deployment: str = "") -> list[dict[str, Any]]:
    """The newest commands first."""
    query = select(CommandRow).order_by(CommandRow.id.desc()).limit(limit)
    if deployment:
        query = query.where(CommandRow.deployment == deployment)
    return [plain(row) for row in session.scalars(query)]


def get(session: Session, number: int) -> dict[str, Any]:
    """One command by its number.

    Raises: Refused where there is none.
    """
    row = session.get(CommandRow, number)
    if row is None:
        raise Refused(f"no command {number}", hint="learnctl commands lists them")
    return plain(row)


def plain(row: CommandRow) -> dict[str, Any]:
    """A command as JSON; `outcome` is "" until the loop has answered."""
    return {
        "id": row.id,
        "deployment": row.deployment,
        "tenant": row.tenant,
        "verb": row.verb,
        "version": row.version,
        "actor": row.actor,
        "reason": row.reason,
        "at": row.at,
        "outcome": row.outcome,
        "answer": row.answer,
        "ended": row.ended,
    }


def import_goldens(
    session: Session, *, deployment: str, name: str, role: str, text: str, actor: str, now: float
) -> dict[str, Any]:
    """Import a set, and where it is a new version, note it in the audit log, in the caller's transaction.

    The report of `daemon.goldens.import_file` as a dict; `stored` is false where a line was refused.
    Raises: Refused by `daemon.goldens` where name, role or actor can't be used.
    """
    from daemon import goldens  # it compares texts by libraries that a status has no use for

    report: dict[str, Any] = to_json(
        goldens.import_file(session, deployment=deployment, name=name, role=role, text=text, actor=actor, now=now)
    )
    if not report["stored"] or not report["new"]:
        return report
    log.append(
        session,
        now=now,
        actor=actor,
        action="goldens_imported",
        reason=f"{role} set {name} imported by {actor}",
        deployment=deployment,
        facts={key: value for key, value in report.items() if key not in ("refused", "stored", "new")},
    )
    return report


def _slot(session: Session, deployment: str, tenant: str) -> Slot:
    slot = session.scalar(select(Slot).where(Slot.deployment == deployment, Slot.tenant == tenant))
    if slot is None:
        known = sorted(set(session.scalars(select(Slot.deployment))))
        raise Refused(
            f"no deployment {deployment!r}" + (f" with tenant {tenant!r}" if tenant else ""),
            hint=f"there are: {', '.join(known)}" if known else "learnd has not begun yet: see learnctl status",
        )
    return slot
