"""Database, jobs and targets -> Snapshot: everything `decide` may know about a slot, rebuilt every tick.

Owns: which rows a snapshot is made of. Refuses to judge any of them. Called by `daemon.loop` inside the transaction that
also stores the decision, so that a decision's inputs can't change under it.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from daemon import baselines, codec, costs, goldens
from daemon.context import Context
from daemon.tables import CommandRow, Cycle, Decision, DriftRow, Due, Slot, VerdictRow, VersionRow
from feedback import store
from policies.model import (
    Attempt,
    CommandView,
    CycleView,
    DriftReport,
    Experience,
    JobView,
    Past,
    Phase,
    SignalCounts,
    Snapshot,
    TeacherView,
    Verdict,
    VersionView,
    Votes,
    WatchView,
)

WEEK = 7 * 86400.0
CONSUMED = ("refused", "inconclusive")


def observe(session: Session, slot: Slot, context: Context, granted: tuple[bool, str] = (True, "")) -> Snapshot:
    """The slot as it stands now.

    Raises: Transient where jobs or the database are away.
    """
    now = context.clock.now()
    name, tenant = slot.deployment, slot.tenant
    head = store.head(session)
    cycle = session.get(Cycle, slot.cycle) if slot.cycle else None
    verdicts, complete, judged_under = _verdicts(session, cycle)
    return Snapshot(
        now=now,
        deployment=name,
        tenant=tenant,
        phase=Phase(slot.phase),
        phase_since=slot.phase_since,
        head=head,
        champion=version_view(session, slot.champion),
        predecessor=slot.predecessor,
        rolling_back_to=slot.rolling_back_to,
        anchor=slot.anchor,
        paused_by=slot.paused_by,
        consent_set=context.deployment.consent_default is not None,
        sets=goldens.accepted(session, name),
        counts=_counts(session, slot, head),
        judge_total=store.judge_total(session, name, tenant),
        drift=_drift(session, slot, context.policy.drift.cheap),
        evidence_drift=_drift(session, slot, context.policy.drift.evidence),
        schedule_due=_due(session, f"learn/{name}/{tenant}"),
        teacher=_teacher(session, slot, context, now),
        past=_past(session, slot, now),
        cycle=_cycle(cycle),
        candidate=version_view(session, _candidate_name(cycle)),
        job=_job(context, cycle),
        verdicts=verdicts,
        verdicts_complete=complete,
        judged_under=judged_under,
        commands=_commands(session, slot),
        watch=_watch(session, slot, context),
        ramp_step=slot.ramp_step,
        ramp_since=slot.ramp_since,
        target_splits=context.target_splits,
        attempt=Attempt(**slot.attempt) if slot.attempt else Attempt(),
        granted=granted[0],
        not_granted=granted[1],
        seed=_seed(session, slot),
        experience=_experience(session, slot, context),
    )


def _experience(session: Session, slot: Slot, context: Context) -> tuple[Experience, ...]:
    """Looked up only where a method may be chosen by its cost."""
    weighed = slot.phase == Phase.IDLE and context.policy.costs.worth > 0
    return costs.experience(session, slot) if weighed else ()


def version_view(session: Session, name: str) -> VersionView | None:
    """The version as the core needs it, or None where there is none of that name."""
    row = session.get(VersionRow, name) if name else None
    if row is None:
        return None
    return VersionView(row.name, row.kind, row.base, row.method, row.depth, row.created)


def _candidate_name(cycle: Cycle | None) -> str:
    if cycle is None:
        return ""
    return cycle.teacher if cycle.step == "teacher" else cycle.candidate


def _counts(session: Session, slot: Slot, head: int) -> SignalCounts:
    return store.signal_counts(session, slot.deployment, slot.tenant, slot.window_end, head)


def _drift(session: Session, slot: Slot, detector: str) -> DriftReport | None:
    row = session.scalar(
        select(DriftRow)
        .where(DriftRow.slot == slot.id, DriftRow.detector == detector)
        .order_by(DriftRow.id.desc())
        .limit(1)
    )
    return codec.drift_from_json(row.report) if row else None


def _due(session: Session, name: str) -> bool:
    return session.scalar(select(Due).where(Due.name == name, Due.done.is_(None)).limit(1)) is not None


def _teacher(session: Session, slot: Slot, context: Context, now: float) -> TeacherView:
    """`used` is the teacher of the champion's newest distilled ancestor, or of a cycle that was turned down since."""
    row = session.scalar(
        select(VersionRow)
        .where(VersionRow.deployment == slot.deployment, VersionRow.state == "teacher")
        .order_by(VersionRow.created.desc(), VersionRow.name)
        .limit(1)
    )
    used = str(row.evidence.get("source", "")) if row else ""
    return TeacherView(context.policy.method.teacher, used, now - row.created if row else 0.0)


def _past(session: Session, slot: Slot, now: float) -> Past:
    ended = list(
        session.scalars(
            select(Cycle).where(Cycle.slot == slot.id, Cycle.ended.is_not(None)).order_by(Cycle.id.desc()).limit(50)
        )
    )
    failures = next((i for i, c in enumerate(ended) if c.outcome != "failed"), len(ended))
    spent = session.scalar(
        select(func.coalesce(func.sum(Cycle.spent_seconds), 0.0)).where(
            Cycle.slot == slot.id, Cycle.started > now - WEEK
        )
    )
    return Past(
        last_ended=(ended[0].ended or 0.0) if ended else 0.0,
        last_outcome=ended[0].outcome if ended else "",
        failures=failures,
        tries=sum(c.window_first == slot.window_end and c.outcome in CONSUMED for c in ended),
        window_end=slot.window_end,
        spent_seconds=float(spent or 0.0),
        last_promoted=slot.promoted,
    )


def _cycle(cycle: Cycle | None) -> CycleView | None:
    if cycle is None:
        return None
    return CycleView(
        id=cycle.id,
        method=cycle.method,
        step=cycle.step,
        window=(cycle.window_first, cycle.window_last),
        started=cycle.started,
        policy_hash=cycle.policy_hash,
        seed=cycle.seed,
        trigger=cycle.trigger,
        candidate=cycle.candidate,
        teacher=cycle.teacher,
        losses=cycle.losses,
        asked_at=cycle.asked,
    )


def _job(context: Context, cycle: Cycle | None) -> JobView | None:
    return context.jobs.find(cycle.job) if cycle and cycle.job else None


def _verdicts(session: Session, cycle: Cycle | None) -> tuple[tuple[Verdict, ...], bool, str]:
    """The newest verdicts of the cycle's present step: complete once the act has stored them, all in one transaction."""
    if cycle is None or not cycle.evaluation:
        return (), False, ""
    rows = list(
        session.scalars(select(VerdictRow).where(VerdictRow.evaluation == cycle.evaluation).order_by(VerdictRow.id))
    )
    if not rows:
        return (), False, ""
    under = rows[-1].policy_hash
    return tuple(codec.verdict_from_row(row) for row in rows if row.policy_hash == under), True, under


def _commands(session: Session, slot: Slot) -> tuple[CommandView, ...]:
    rows = session.scalars(
        select(CommandRow)
        .where(CommandRow.deployment == slot.deployment, CommandRow.tenant == slot.tenant, CommandRow.outcome == "")
        .order_by(CommandRow.id)
    )
    return tuple(CommandView(r.id, r.verb, r.actor, r.reason, r.version, r.at) for r in rows)


def _watch(session: Session, slot: Slot, context: Context) -> WatchView | None:
    if slot.phase not in (Phase.WATCHING, Phase.RAMPING):
        return None
    since = baselines.newest(session, slot.id, "inputs", slot.champion)
    start = since.last if since else 0
    now = store.votes(session, slot.deployment, slot.champion, after_seq=start)
    if context.target_splits:
        before = store.votes(session, slot.deployment, slot.predecessor, after_seq=start)
        if before.n:
            return WatchView(slot.promoted, now, before, controlled=True)
    frozen = baselines.newest(session, slot.id, "outcomes", slot.predecessor)
    before = (
        Votes(slot.predecessor, int(frozen.aggregates["n"]), int(frozen.aggregates["good"]))
        if frozen
        else store.votes(session, slot.deployment, slot.predecessor, upto_seq=start)
    )
    return WatchView(slot.promoted, now, before, controlled=False)


def _seed(session: Session, slot: Slot) -> int:
    """A new seed for each decision, the same when the tick is run again: no randomness hides in the core."""
    last = session.scalar(select(func.max(Decision.id)).where(Decision.slot == slot.id)) or 0
    return slot.id * 1_000_003 + last + 1
