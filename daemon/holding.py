"""What a person decides about held records: let them teach again, or never.

Owns: who may, that a reason is given, and that the command, its answer and its audit entry are one transaction with the
change. Refuses to hold anything (`policies.trust` and a refusal by safety do). Called by `daemon.api`.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon import command_outcomes, commands
from feedback import quarantine
from feedback.tables import Held
from policies import words
from policies.errors import Refused

VERBS = {"release": quarantine.release, "drop": quarantine.drop}


def listing(
    session: Session, *, deployment: str = "", hold: str = "", records: bool = False, limit: int = 100
) -> list[dict[str, Any]]:
    """What is held now, newest first: by reason, or record by record. No text of users."""
    if records or hold:
        return quarantine.listing(session, deployment, limit, hold)
    return quarantine.holds(session, deployment)[:limit]


def end(
    session: Session,
    *,
    deployment: str,
    verb: str,
    actor: str,
    role: str,
    now: float,
    reason: str,
    hold: str = "",
    rater: str = "",
    seqs: Sequence[int] = (),
    everything: bool = False,
) -> dict[str, Any]:
    """Release or drop the held records that are meant, and return the command's row with `records`, how many.

    They must be named: by `hold` or `rater` (beginnings of their names), by `seqs`, or as `everything` that is held.
    Raises: Refused where the actor may not, nothing is named, nothing such is held, or the reason is missing.
    """
    if verb not in VERBS:
        raise Refused(f"{verb!r} is nothing that is done with held records", hint=f"one of {', '.join(VERBS)}")
    if everything == bool(hold or rater or seqs):
        raise Refused("which held records are meant?", hint="--hold, --rater or --seq name them, --all means every one")
    row = commands.given(session, deployment=deployment, verb=verb, actor=actor, role=role, reason=reason, now=now)
    found = quarantine.chosen(session, deployment, hold=hold, rater=rater, seqs=seqs)
    if not found:
        raise Refused(f"no such record of {deployment} is held", hint="learnctl quarantine list shows what is")
    reasons = _reasons(session, found)
    done = VERBS[verb](session, found, now, actor)
    answer = f"{words.count(done, 'record')} {verb}{'d' if verb.endswith('e') else 'ped'}"
    facts = {"records": done, "held_for": reasons, "seqs": ranges(found)}
    command_outcomes.close(session, row, "done", answer, now, facts)
    return {**commands.plain(row), "records": done}


def ranges(seqs: Sequence[int]) -> list[list[int]]:
    """Rising numbers as [first, last] runs: an audit entry names every record, also of a release of thousands."""
    runs: list[list[int]] = []
    for seq in seqs:
        if runs and runs[-1][1] == seq - 1:
            runs[-1][1] = seq
        else:
            runs.append([seq, seq])
    return runs


def _reasons(session: Session, seqs: Sequence[int]) -> list[str]:
    found: set[str] = set()
    for start in range(0, len(seqs), quarantine.CHUNK):
        part = seqs[start : start + quarantine.CHUNK]
        found |= set(session.scalars(select(Held.reason).where(Held.seq.in_(part)).distinct()))
    return sorted(found)
