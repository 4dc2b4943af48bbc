"""Queries -> plain dicts: what `learnctl`, the control socket and the pages show, told in one place.

Owns: status, cycles, drift, dead letters. Refuses to change a row, to format for people (`daemon.ctl.render`) and to
ask the running service: what the service knows, it wrote down. Called by `daemon.ctl` and `daemon.api`. Times are
unix seconds; versions and their evidence are told by `daemon.evidence`.
"""

import json
import os
import platform
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from daemon import drifts, evidence, held_policies
from daemon.clock import next_fire
from daemon.policyfile import glance, parse_policy
from daemon.tables import CommandRow, Cycle, Decision, DriftRow, PolicyRow, Setting, Slot, VersionRow
from feedback import store
from feedback.tables import Counter, DeadLetter, Held, Record
from policies.errors import Misconfigured, Refused
from policies.model import Phase
from policies.policy import Policy

STALE_SECONDS = 60.0
COUNTED = ("stored", "duplicates", "dead_letters", "conflicts", "quarantined")
QUIET = ("Wait", "Watch")


def status(session: Session, now: float) -> dict[str, Any]:
    """The service and every slot: where it stands and why, and what comes next."""
    slots = session.scalars(select(Slot).order_by(Slot.deployment, Slot.tenant))
    today = _today(session, now)
    return {
        "service": service(session, now),
        "deployments": [_slot(session, slot, now, today.get(slot.deployment, 0)) for slot in slots],
        "unassigned": _counters(session, ""),
        "at": now,
    }


def service(session: Session, now: float) -> dict[str, Any]:
    """Whether a daemon runs: its process lives and its loop has said so within a minute.

    `silent`: its process lives on this machine, but has not been able to say so (a full disk, a database that is away).
    """
    row = session.get(Setting, "service")
    told: dict[str, Any] = json.loads(row.value) if row else {}
    fresh = now - float(told.get("beat", 0.0)) < STALE_SECONDS
    elsewhere = told.get("host", platform.node()) != platform.node()  # a pid says nothing on another machine
    alive = bool(told) and (elsewhere or _alive(int(told.get("pid", 0))))
    running = alive and fresh
    return {
        "running": running,
        "silent": alive and not fresh and not elsewhere,
        "since": told.get("since") if running else None,
        **{n: told.get(n) for n in ("pid", "beat")},
    }


def cycles(session: Session, *, deployment: str = "", limit: int = 20) -> list[dict[str, Any]]:
    """Attempts, newest first; `action` is the last thing that was done in each."""
    query = select(Cycle, Slot).join(Slot, Slot.id == Cycle.slot).order_by(Cycle.id.desc()).limit(limit)
    if deployment:
        query = query.where(Slot.deployment == known(session, deployment))
    return [_cycle(session, cycle, slot) for cycle, slot in session.execute(query)]


def drift(session: Session, *, deployment: str = "", texts: bool = True) -> list[dict[str, Any]]:
    """The last report of each detector of each slot, and the last evidence report with its files.

    A column that drifted has `since_at` (unix seconds), an alarm `typical`: a few records of the new kind. Without `texts`
    these are left out, since their prompts are for operators.
    """
    query = select(Slot).order_by(Slot.deployment, Slot.tenant)
    if deployment:
        query = query.where(Slot.deployment == known(session, deployment))
    return [report for slot in session.scalars(query) for report in drifts.reports(session, slot, texts)]


def dead_letters(session: Session, *, deployment: str = "", limit: int = 50) -> list[dict[str, Any]]:
    """Refused records, newest first; never their content."""
    query = select(DeadLetter).order_by(DeadLetter.id.desc()).limit(limit)
    if deployment:
        query = query.where(DeadLetter.deployment == deployment)
    return [
        {
            "id": row.id,
            "deployment": row.deployment,
            "reason": row.reason,
            "field": row.field,
            "message": row.message,
            "source": row.source,
            "partition": row.partition,
            "offset": row.offset,
            "at": row.at,
            "published": row.published,
        }
        for row in session.scalars(query)
    ]


def policy_in_force(session: Session, deployment: str) -> Policy | None:
    """The policy that is in force for a deployment, its gates left out; None before the service ever began."""
    named = session.get(Setting, f"policy/{deployment}")
    row = session.get(PolicyRow, named.value) if named else None
    return _parsed(row.text, f"{deployment}.toml") if row else None


def policy_of(session: Session, deployment: str) -> Policy | None:
    """The whole policy in force for a deployment; None before the service began, or where this learnd can't read it."""
    named = session.get(Setting, f"policy/{deployment}")
    row = session.get(PolicyRow, named.value) if named else None
    try:
        return parse_policy(row.text, f"policy {row.hash[:12]}") if row else None
    except Misconfigured:
        return None


def known(session: Session, deployment: str) -> str:
    """The name itself.

    Raises: Refused where no slot has that deployment.
    """
    names = sorted(set(session.scalars(select(Slot.deployment))))
    if deployment not in names:
        there = f"there are: {', '.join(names)}" if names else "learnd has not begun yet: start learnd run"
        raise Refused(f"no deployment {deployment!r}", hint=there)
    return deployment


@lru_cache(maxsize=32)
def _parsed(text: str, source: str) -> Policy:
    return glance(text, source)


def _alive(pid: int) -> bool:
    """Whether that process lives; one that belongs to somebody else does."""
    if pid <= 0:
        return False
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def _slot(session: Session, slot: Slot, now: float, today: int) -> dict[str, Any]:
    cycle = session.get(Cycle, slot.cycle) if slot.cycle else None
    policy = policy_in_force(session, slot.deployment)
    return {
        "name": slot.deployment,
        "tenant": slot.tenant,
        "phase": slot.phase,
        "phase_since": slot.phase_since,
        "mode": policy.mode.value if policy else None,
        "policy_waits": held_policies.waiting(session, slot.deployment),
        "champion": slot.champion or None,
        "candidate": (cycle.candidate if cycle and cycle.candidate != slot.champion else "") or None,
        "reason": slot.reason,
        "cause": slot.cause,
        "reason_at": slot.reason_at,
        "paused_by": slot.paused_by or None,
        "predecessor": slot.predecessor or None,
        "anchor": slot.anchor or None,
        "feedback": {**_counters(session, slot.deployment), "today": today, **_quarantine(session, slot.deployment)},
        "champion_is": _champion(session, slot),
        "watch": _watch(slot, policy),
        "drift": _looked(session, slot),
        "last_cycle": next(iter(_last(session, slot)), None),
        "next": _next(session, slot, policy, now),
    }


def _counters(session: Session, deployment: str) -> dict[str, int]:
    rows = session.execute(select(Counter.name, Counter.value).where(Counter.deployment == deployment))
    return {**dict.fromkeys(COUNTED, 0), **{str(name): int(value) for name, value in rows}}


def _quarantine(session: Session, deployment: str) -> dict[str, Any]:
    """How many records are held back now, and the commonest reason."""
    rows = session.execute(
        select(Held.reason, func.count())
        .where(Held.deployment == deployment, Held.ended.is_(None))
        .group_by(Held.reason)
        .order_by(func.count().desc())
    ).all()
    return {"quarantined": sum(int(row[1]) for row in rows), "quarantined_for": rows[0][0] if rows else None}


def _today(session: Session, now: float) -> dict[str, int]:
    """Records a deployment has stored since local midnight."""
    day = time.localtime(now)
    midnight = time.mktime((day.tm_year, day.tm_mon, day.tm_mday, 0, 0, 0, 0, 0, -1))
    low = store.head_at(session, midnight)
    query = select(Record.deployment, func.count()).where(Record.seq > low).group_by(Record.deployment)
    return {str(name): int(count) for name, count in session.execute(query)}


def _champion(session: Session, slot: Slot) -> dict[str, Any] | None:
    """How the champion came to be: its method and data, when it was promoted and by whom."""
    row = session.get(VersionRow, slot.champion) if slot.champion else None
    if row is None:
        return None
    promotion = session.scalar(
        select(Decision)
        .where(Decision.slot == slot.id, Decision.action == "Promote", Decision.outcome.in_(("promoted", "ramping")))
        .order_by(Decision.id.desc())
        .limit(1)
    )
    mine = promotion if promotion and promotion.body.get("version") == slot.champion else None
    command = session.get(CommandRow, mine.body.get("command") or 0) if mine else None
    return {
        "version": row.name,
        "method": row.method,
        "data": evidence.data_of(session, row),
        "promoted": slot.promoted or None,
        "by": command.actor if command else "policy" if mine else None,
    }


def _watch(slot: Slot, policy: Policy | None) -> dict[str, Any] | None:
    if slot.phase not in (Phase.WATCHING, Phase.RAMPING) or policy is None:
        return None
    return {"minimum_hours": policy.watch.minimum_hours, "minimum_votes": policy.watch.minimum_votes}


def _looked(session: Session, slot: Slot) -> dict[str, Any] | None:
    """The last look at drift, and since when its answer has been the same."""
    newest = session.scalar(select(DriftRow).where(DriftRow.slot == slot.id).order_by(DriftRow.id.desc()).limit(1))
    if newest is None:
        return None
    other = session.scalar(
        select(func.max(DriftRow.id)).where(
            DriftRow.slot == slot.id, DriftRow.detector == newest.detector, DriftRow.drifted.is_not(newest.drifted)
        )
    )
    since = session.scalar(
        select(func.min(DriftRow.at)).where(
            DriftRow.slot == slot.id, DriftRow.detector == newest.detector, DriftRow.id > (other or 0)
        )
    )
    told = {name: newest.report.get(name) for name in ("judged", "kind", "reason")}
    return {"drifted": newest.drifted, "detector": newest.detector, "at": newest.at, "since": since, **told}


def _last(session: Session, slot: Slot) -> list[dict[str, Any]]:
    query = select(Cycle).where(Cycle.slot == slot.id, Cycle.ended.is_not(None)).order_by(Cycle.id.desc()).limit(1)
    return [_cycle(session, cycle, slot) for cycle in session.scalars(query)]


def _cycle(session: Session, cycle: Cycle, slot: Slot) -> dict[str, Any]:
    action = session.scalar(
        select(Decision.action)
        .where(Decision.cycle == cycle.id, Decision.slot == slot.id, Decision.action.not_in(QUIET))
        .order_by(Decision.id.desc())
        .limit(1)
    )
    return {
        "cycle": cycle.id,
        "deployment": slot.deployment,
        "tenant": slot.tenant,
        "action": (action or "Train").lower(),
        "method": cycle.method,
        "trigger": cycle.trigger,
        "reason": cycle.outcome_reason or (slot.reason if slot.cycle == cycle.id else cycle.reason),
        "asked_for": cycle.reason,
        "outcome": cycle.outcome or "running",
        "candidate": cycle.candidate or None,
        "champion": cycle.champion or None,
        "window": [cycle.window_first, cycle.window_last],
        "policy_hash": cycle.policy_hash,
        "started": cycle.started,
        "at": cycle.ended or cycle.started,
    }


def _next(session: Session, slot: Slot, policy: Policy | None, now: float) -> list[dict[str, Any]]:
    """What the calendar holds: the nightly report, the schedule, the end of a cooldown."""
    if policy is None:
        return []
    coming: list[dict[str, Any]] = []
    if policy.drift.evidence and policy.drift.evidence_schedule:
        coming.append({"what": "drift report", "at": next_fire(policy.drift.evidence_schedule, now)})
    if policy.triggers.schedule:
        coming.append({"what": "scheduled training", "at": next_fire(policy.triggers.schedule, now)})
    ended = session.scalar(select(func.max(Cycle.ended)).where(Cycle.slot == slot.id))
    rest = (ended or 0.0) + policy.triggers.cooldown_hours * 3600
    if ended and rest > now:
        coming.append({"what": "no training before (cooldown)", "at": rest})
    return sorted((item for item in coming if item["at"] < float("inf")), key=lambda item: item["at"])
