"""Who may use the accelerator now: what runs and who wants it, from the database, to `policies.schedule`.

Owns: what counts as a want, and how many jobs the machine carries. Refuses to rank wants (`policies.schedule`). Called by
`daemon.service` once a tick, over all slots.
"""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from daemon.context import Context
from daemon.observe import WEEK, observe
from daemon.tables import Cycle, Slot
from feedback import db
from policies.decide import decide
from policies.model import Phase
from policies.schedule import Resources, Want, grant
from policies.schedule import kind as wanted

KINDS = {
    Phase.TRAINING.value: "learning",
    Phase.EVALUATING.value: "evaluation",
    Phase.PROMOTING.value: "proof",
    Phase.ROLLING_BACK.value: "rollback",
}


def grants(engine: Engine, contexts: Mapping[str, Context]) -> dict[str, tuple[bool, str]]:
    """By deployment: whether a job may start, and why not. One job at a time: a machine has one accelerator."""

    def wants(session: Session) -> list[Want]:
        found = []
        for slot in session.scalars(select(Slot).where(Slot.deployment.in_(list(contexts))).order_by(Slot.id)):
            context = contexts[slot.deployment]
            now = context.clock.now()
            served = session.scalar(
                select(func.coalesce(func.sum(Cycle.spent_seconds), 0.0)).where(
                    Cycle.slot == slot.id, Cycle.started > now - WEEK
                )
            )
            cycle = session.get(Cycle, slot.cycle) if slot.cycle else None
            running = bool(cycle and cycle.job and context.jobs.find(cycle.job).state == "running")
            # Who has nothing to do wants nothing, else an idle slot would hold the machine and the others starve.
            kind = KINDS[slot.phase] if running else wanted(decide(observe(session, slot, context), context.policy))
            if kind:
                found.append(Want(slot.deployment, kind, float(served or 0.0), slot.phase_since, running))
        return found

    answers = dict.fromkeys(contexts, (True, ""))
    # One deployment has nobody to share with: its tick is spared a second look.
    found = db.read(engine, wants) if len(contexts) > 1 else []
    for each in grant(found, Resources(jobs=1)):
        if not each.granted:
            answers[each.slot] = (False, each.reason)
    for name, context in contexts.items():
        if context.policy.method.device == "gpu" and not gpu_present():
            answers[name] = (False, "the policy asks for a GPU and this machine shows none")
    return answers


def gpu_present() -> bool:
    """Whether the kernel shows an accelerator; asked here without torch, which takes seconds to import."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
