"""Backtest: what another policy would have said of the past, decision by decision and verdict by verdict.

Owns: the comparison, and that what can't be said is listed. Refuses to change anything, and to imagine a history that
was not: every decision is made again where the slot really stood, so a first difference is sure and what would have
followed from it is not. Called by `learnctl backtest`.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from daemon import codec
from daemon.audit.replay import BATCH, judge_again, judgements
from daemon.tables import Cycle, Decision, Slot
from feedback.db import read
from policies import gates
from policies.actions import Action
from policies.decide import decide
from policies.errors import LearndError, Refused
from policies.model import Snapshot, Verdict
from policies.policy import Policy

SAID = ("reason", "cause")  # what an action says and doesn't do


@dataclass(frozen=True, slots=True)
class Change:
    """Something that would have come out otherwise. `what`: decision or verdict; `subject`: a slot, or gate and version.

    `was` and `now` are an action's name or a gate's result, `why` the new reason; `at` in unix seconds.
    """

    what: str
    id: int
    at: float
    subject: str
    was: str
    now: str
    why: str


@dataclass(frozen=True, slots=True)
class Backtest:
    """Of `decisions` and `verdicts` so many would have been the same; the others, oldest first, and what can't be told.

    `moves`: how often which action would have been which other one, as ("Wait", "Train", 3).
    """

    decisions: int
    same: int
    verdicts: int
    verdicts_same: int
    moves: tuple[tuple[str, str, int], ...]
    changes: tuple[Change, ...]
    unreplayable: tuple[Change, ...]


Verdicts = dict[tuple[str, str], tuple[Verdict, ...]]  # by evaluation and version


def backtest(engine: Engine, policy: Policy, deployment: str) -> Backtest:
    """Decide all of a deployment's past again under `policy` alone, and judge all its verdicts' measurements again.

    Raises: Transient where the database is away.
    """
    return read(engine, lambda session: _backtest(session, policy, deployment))


def _backtest(session: Session, policy: Policy, deployment: str) -> Backtest:
    slots = {row.id: row for row in session.scalars(select(Slot).where(Slot.deployment == deployment))}
    known: Verdicts = {}
    judged, verdicts = _verdicts(session, policy, slots, known)
    decided, decisions = _decisions(session, policy, slots, known)
    found = [*judged, *decided]
    changes = tuple(each for each in found if each.now)
    moves = Counter((each.was, each.now) for each in changes if each.what == "decision")
    return Backtest(
        decisions=decisions,
        same=decisions - len(decided),
        verdicts=verdicts,
        verdicts_same=verdicts - len(judged),
        moves=tuple((was, now, n) for (was, now), n in moves.most_common()),
        changes=changes,
        unreplayable=tuple(each for each in found if not each.now),
    )


def _verdicts(session: Session, policy: Policy, slots: dict[int, Slot], known: Verdicts) -> tuple[list[Change], int]:
    """The verdicts that differ and how many there are; `known` is filled with the new ones. The last judgement counts."""
    last = {(each.rows[0].evaluation, each.rows[0].version): each for each in judgements(session)}
    changes: list[Change] = []
    count = 0
    for key, judged in last.items():
        if judged.cycle is None or judged.cycle.slot not in slots:
            continue
        count += len(judged.rows)
        again: dict[str, Verdict] = {}
        if judged.measurements:
            known[key] = tuple(judge_again(judged.measurements, judged.rows[0], judged.cycle, [policy]))
            again = {each.gate: each for each in known[key]}
        for row in judged.rows:
            now = again.get(row.gate)
            if now is None or now.result.value != row.result:
                result, why = (now.result.value, now.reason) if now else ("", "its measurements are gone")
                changes.append(
                    Change("verdict", row.id, row.at, f"{row.gate} of {row.version}", row.result, result, why)
                )
    return sorted(changes, key=lambda each: each.id), count


def _decisions(session: Session, policy: Policy, slots: dict[int, Slot], known: Verdicts) -> tuple[list[Change], int]:
    """The decisions that differ and how many there are."""
    query = (
        select(Decision).where(Decision.slot.in_(list(slots))).order_by(Decision.id).execution_options(yield_per=BATCH)
    )
    changes: list[Change] = []
    count = 0
    with closing(session.scalars(query)) as rows:
        for row in rows:
            count += 1
            changes += _decide_again(session, row, policy, slots[row.slot], known)
    return changes, count


def _decide_again(session: Session, row: Decision, policy: Policy, slot: Slot, known: Verdicts) -> Iterator[Change]:
    subject = f"{slot.deployment}{'/' + slot.tenant if slot.tenant else ''}"
    try:
        snapshot = _under(session, codec.snapshot_from_json(row.snapshot), row, policy, known)
        was, now = codec.action_from_json(row.body), decide(snapshot, policy)
    except LearndError as error:
        yield Change("decision", row.id, row.at, subject, row.action, "", str(error))
        return
    if _acts(was) != _acts(now):
        yield Change("decision", row.id, row.at, subject, _named(was), _named(now), now.reason)


def _under(session: Session, snapshot: Snapshot, row: Decision, policy: Policy, known: Verdicts) -> Snapshot:
    """The snapshot with its verdicts as the policy would have had them.

    Raises: Refused where the measurements that they come from are gone.
    """
    if not snapshot.verdicts:
        return snapshot
    cycle = session.get(Cycle, row.cycle)
    step = snapshot.cycle.step if snapshot.cycle is not None else "candidate"
    version = "" if cycle is None else cycle.teacher if step == "teacher" else cycle.candidate
    keys = [key for key in known if key[1] == version]
    if not keys:
        raise Refused(f"the measurements of {version or 'its candidate'} are gone")
    # An evaluation's name goes with its cycle; a version that two cycles made was measured in each.
    evaluation = next((key for key in keys if cycle is not None and key[0] == cycle.evaluation), keys[-1])
    again = known[evaluation]
    complete = snapshot.verdicts_complete and {each.gate for each in again} >= set(gates.for_step(step))
    return replace(snapshot, verdicts=again, verdicts_complete=complete, judged_under=policy.hash)


def _acts(action: Action) -> object:
    """What an action does: itself without what it says."""
    body = {name: value for name, value in codec.action_to_json(action).items() if name not in SAID}
    return codec.canonical(body)


def _named(action: Action) -> str:
    """An action with what tells it from others of its kind: `Train lora`, `Reject refused`."""
    told = getattr(action, "method", "") or getattr(action, "kind", "")
    outcome = getattr(action, "outcome", None)
    return " ".join(filter(None, (type(action).__name__, told, outcome.value if outcome else "")))
