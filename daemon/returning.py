"""The proof of a rollback: the target answers recorded prompts as the version that it went back to did.

Owns: which recording proves a version, and the job that is followed until it has an answer. Refuses to hold a rollback up
or to undo one: what can't be proven stays rolled back, and somebody is told. Called by `daemon.serving` (begins) and
`daemon.loop` (follows). What waits for its proof is a setting of the slot, so that a restart forgets nothing.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from daemon import costs, proving
from daemon.audit import log as audit
from daemon.context import Context
from daemon.jobs import JobSpec
from daemon.tables import Cycle, Setting, Slot
from feedback import db
from policies.errors import LearndError, Misconfigured

SECONDS = 900.0
STARTS = 3  # of a job that is lost, or that finds the target away


@dataclass(frozen=True, slots=True)
class Waiting:
    """A rollback whose proof is open: `prompts` is the recording, `starts` how often the job was started."""

    key: str
    version: str
    prompts: str
    deadline: float
    cycle: int
    starts: int = 0


@dataclass(frozen=True, slots=True)
class Proved:
    """What a proof came to; `serves` is false where the target answered otherwise, or could not be asked."""

    version: str
    serves: bool
    reason: str


def recording(context: Context, version: str) -> Path | None:
    """The newest file of prompts with the recorded answers of `version`, None where no evaluation left one."""

    def look(session: Session) -> list[str]:
        query = select(Cycle.evaluation).where(
            Cycle.evaluation != "", or_(Cycle.candidate == version, Cycle.champion == version)
        )
        return list(session.scalars(query.order_by(Cycle.id.desc())))

    for evaluation in db.read(context.engine, look):
        path = context.jobs.folder(evaluation) / "distinct.jsonl"
        try:
            prompts = proving.read(path)
        except Misconfigured:
            continue
        if prompts and all(version in prompt.answers for prompt in prompts):
            return path
    return None


def begin(context: Context, slot: Slot, version: str, path: Path) -> Waiting:
    """What is to be proven of a slot that has just gone back to `version`; the job is started by `follow`."""
    now = context.clock.now()
    whose = f"{slot.deployment}{'.' + slot.tenant if slot.tenant else ''}"
    key = f"{whose}.back.{version.rpartition('@')[2]}.{int(now * 1000)}.prove"
    return Waiting(key, version, str(path), now + SECONDS, slot.cycle)


def remember(session: Session, slot: Slot, waiting: Waiting | None) -> None:
    """Keep what waits for its proof, in place of what waited before; None: nothing does."""
    row = session.get(Setting, _name(slot.id))
    if waiting is not None:
        session.merge(Setting(name=_name(slot.id), value=json.dumps(asdict(waiting))))
    elif row is not None:
        session.delete(row)


def follow(context: Context, slot_id: int) -> Proved | None:
    """Start the proof that waits, look after it, and write its answer into the audit log; None while there is none.

    Raises: Transient where the database is away.
    """
    waiting = db.read(context.engine, lambda session: _waiting(session, slot_id))
    if waiting is None:
        return None
    try:
        proved, started = _step(context, waiting)
    except LearndError as error:
        proved, started = Proved(waiting.version, serves=False, reason=f"the proof can't run: {error}"), waiting
    if proved is None and started == waiting:
        return None
    return db.transact(context.engine, lambda session: _note(session, context, slot_id, started, proved))


def waits(session: Session, slot_id: int) -> bool:
    """Whether a rollback of the slot is not proven yet."""
    return _waiting(session, slot_id) is not None


def _step(context: Context, waiting: Waiting) -> tuple[Proved | None, Waiting]:
    """The proof, if it has come to an end, and what waits otherwise."""
    found = context.jobs.find(waiting.key)
    if found.state == "done":
        result = context.jobs.result(waiting.key)
        return Proved(waiting.version, serves=bool(result["serves"]), reason=str(result["reason"])), waiting
    late = context.clock.now() > waiting.deadline
    if found.state == "running" and not late:
        return None, waiting
    passing = found.state == "absent" or found.error_kind == "Transient"
    if late or not passing or waiting.starts >= STARTS:
        context.jobs.cancel(waiting.key)
        why = found.error or ("it did not end in time" if late else "its job was lost")
        return Proved(waiting.version, serves=False, reason=f"the target could not be asked: {why}"), waiting
    context.jobs.start(_spec(context, waiting))
    return None, Waiting(**{**asdict(waiting), "starts": waiting.starts + 1})


def _spec(context: Context, waiting: Waiting) -> JobSpec:
    return JobSpec(
        key=waiting.key,
        kind="prove",
        entry="daemon.proving:run",
        inputs=proving.inputs(
            context.deployment.target, waiting.version, waiting.prompts, context.deployment.max_new_tokens
        ),
        seed=0,
        deadline=waiting.deadline,
        device="any",
    )


def _note(session: Session, context: Context, slot_id: int, waiting: Waiting, proved: Proved | None) -> Proved | None:
    """Keep what waits on, or write down what came of it; nothing where the slot has gone on to another version."""
    slot = session.get_one(Slot, slot_id)
    if proved is None:
        remember(session, slot, waiting)
        return None
    remember(session, slot, None)
    costs.write(session, context, session.get(Cycle, waiting.cycle), "", costs.taken(context, waiting.key))
    if slot.champion != waiting.version:
        return None
    audit.append(
        session,
        now=context.clock.now(),
        actor="policy",
        action=f"rollback:{'proven' if proved.serves else 'unproven'}",
        reason=f"went back to {waiting.version}: {proved.reason}",
        deployment=slot.deployment,
        version=waiting.version,
        policy_hash=context.policy.hash,
        facts={"cycle": waiting.cycle, "tenant": slot.tenant, "job": waiting.key, "serves": proved.serves},
    )
    return proved


def _waiting(session: Session, slot_id: int) -> Waiting | None:
    row = session.get(Setting, _name(slot_id))
    return Waiting(**json.loads(row.value)) if row is not None else None


def _name(slot_id: int) -> str:
    return f"rollback/{slot_id}"
