"""What a target serves: promote and prove, ramp, roll back. Every effect carries the fencing token.

Owns: the order load -> route -> prove, and that nothing counts as promoted before the target has proven it. Refuses to
decide when. Called by `daemon.act`.
"""

from sqlalchemy.orm import Session

from daemon import baselines, costs, judging, proving, returning
from daemon.answer import Answer
from daemon.context import Context
from daemon.jobs import JobSpec
from daemon.tables import Cycle, Slot, VersionRow
from policies.actions import Promote, Ramp, Rollback
from policies.errors import Transient
from policies.model import Outcome, Phase

PROVE_SECONDS = 900.0


def promote(context: Context, slot: Slot, cycle: Cycle, action: Promote) -> Answer:
    """Load, route and start the proof; when the proof is there, answer promoted, ramping or misserved.

    Raises: Transient where the target or the job is away.
    """
    key = f"{cycle.evaluation}.prove"
    if cycle.job == key and context.jobs.find(key).state == "done":
        return _proven(context, action, context.jobs.result(key), costs.taken(context, key))
    if cycle.job == key and (found := context.jobs.find(key)).state == "failed":
        context.jobs.start(_proof(context, cycle, action.version, key))
        raise Transient(f"the proof of serving failed: {found.error}", hint="is the target reachable?")
    context.target.load(context.registry.ref(action.version))
    context.target.route(_shares(slot.champion, action.version, action.share), context.token())
    context.jobs.start(_proof(context, cycle, action.version, key))

    def apply(_session: Session, _slot: Slot, kept: Cycle | None) -> None:
        assert kept is not None
        kept.job = key

    return Answer(Outcome.UNFINISHED, note="routed; the target has yet to prove what it serves", apply=apply)


def _proof(context: Context, cycle: Cycle, version: str, key: str) -> JobSpec:
    prompts = str(judging.distinct_prompts(context, cycle.evaluation))
    return JobSpec(
        key=key,
        kind="prove",
        entry="daemon.proving:run",
        inputs=proving.inputs(context.deployment.target, version, prompts, context.deployment.max_new_tokens),
        seed=cycle.seed,
        deadline=context.clock.now() + PROVE_SECONDS,
        device="any",
    )


def _proven(context: Context, action: Promote, result: dict[str, object], spent: costs.Taken | None) -> Answer:
    facts = {"version": action.version, "proof": result, "share": action.share}
    if not result.get("serves"):
        note = (
            f"the target answered {result.get('matched')} of {result.get('asked')} recorded prompts as the version does"
        )

        def misserved(session: Session, slot: Slot, kept: Cycle | None) -> None:
            costs.write(session, context, kept, action.version, spent)
            slot.rolling_back_to = slot.champion

        return Answer(Outcome.MISSERVED, note=note, facts=facts, apply=misserved)

    def apply(session: Session, slot: Slot, kept: Cycle | None) -> None:
        assert kept is not None
        costs.write(session, context, kept, action.version, spent)
        install(session, context, slot, action.version)
        slot.window_end, slot.ramp_step, slot.ramp_since = kept.window_last, 0, context.clock.now()

    return Answer(Outcome.PROMOTED if action.share >= 1.0 else Outcome.RAMPING, facts=facts, apply=apply)


def install(session: Session, context: Context, slot: Slot, version: str) -> None:
    """Write down that `version` is the slot's champion now, and freeze the inputs it was promoted on."""
    now = context.clock.now()
    before = session.get(VersionRow, slot.champion) if slot.champion else None
    if before is not None:
        before.state = "retired"
    row = session.get(VersionRow, version)
    assert row is not None
    row.state = "champion"
    slot.predecessor, slot.champion, slot.promoted = slot.champion, version, now
    baselines.freeze_inputs(session, slot, version, context.policy.drift.current, context.policy.drift, now)


def ramp(context: Context, slot: Slot, action: Ramp) -> Answer:
    """Give the promoted version its next share; the last one ends the ramp."""
    context.target.route(_shares(slot.predecessor, action.version, action.share), context.token())

    def apply(_session: Session, kept: Slot, _cycle: Cycle | None) -> None:
        kept.ramp_step, kept.ramp_since = action.step, context.clock.now()

    outcome = Outcome.RAMPED if action.share >= 1.0 else Outcome.RAMPING
    return Answer(outcome, facts={"version": action.version, "share": action.share}, apply=apply)


def rollback(context: Context, slot: Slot, action: Rollback) -> Answer:
    """Serve `to` alone, check that the target says so, and have its answers prove it (`daemon.returning`).

    The proof holds nothing up: a rollback that can't be proven is one all the same, and somebody is told.

    Raises: Transient where the target is away or serves something else; Refused where `to` is no version of ours.
    """
    context.registry.verify(action.to)
    context.target.load(context.registry.ref(action.to))
    context.target.route({action.to: 1.0}, context.token())
    serving = context.target.serving()
    if dict(serving.shares) != {action.to: 1.0}:
        raise Transient(f"the target serves {dict(serving.shares)}, not {action.to} alone", hint="is it healthy?")
    left, recorded = slot.champion, returning.recording(context, action.to)
    waiting = returning.begin(context, slot, action.to, recorded) if recorded else None
    note = "" if recorded else f"no recorded prompts of {action.to}: that it serves is not proven by answers"

    def apply(session: Session, kept: Slot, cycle: Cycle | None) -> None:
        returning.remember(session, kept, waiting)
        for name, state in ((left, "retired"), (action.to, "champion")):
            row = session.get(VersionRow, name)
            if row is not None and left != action.to:
                row.state = state
        if left != action.to:
            kept.champion, kept.predecessor = action.to, ""
            kept.promoted = context.clock.now()
            rule = context.policy.drift
            baselines.freeze_inputs(session, kept, action.to, rule.current, rule, context.clock.now())
        elif cycle is not None and cycle.candidate:
            refused = session.get(VersionRow, cycle.candidate)
            if refused is not None:
                refused.state = "rejected"
        kept.rolling_back_to, kept.ramp_step, kept.ramp_since = "", 0, 0.0
        end_cycle(kept, cycle, "rolled_back", action.reason, context.clock.now())

    facts = {"version": action.to, "left": left, "proof": waiting.key if waiting else ""}
    return Answer(Outcome.ROLLED_BACK, note=note, facts=facts, apply=apply)


def end_cycle(slot: Slot, cycle: Cycle | None, outcome: str, reason: str, now: float) -> None:
    """Close the slot's cycle, if one is open."""
    if cycle is not None and cycle.ended is None:
        cycle.ended, cycle.outcome, cycle.outcome_reason = now, outcome, reason
    slot.cycle = 0


def _shares(old: str, new: str, share: float) -> dict[str, float]:
    return {new: 1.0} if share >= 1.0 else {new: share, old: 1.0 - share}


def before(slot: Slot) -> str:
    """What served before the change under way: still the champion while promoting, its predecessor while ramping."""
    return slot.champion if slot.phase == Phase.PROMOTING.value else slot.predecessor
