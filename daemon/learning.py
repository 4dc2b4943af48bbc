"""From a decision to train to a running job, and from a finished job to a version in the registry.

Owns: the dataset of a cycle, the job's inputs, the manifest of what came out. Refuses to decide when or how to learn
(`policies`), and to know how a method trains (`daemon.training`). Called by `daemon.act`.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon import environment, goldens
from daemon.answer import Answer
from daemon.context import Context
from daemon.jobs import JobSpec
from daemon.models import Ref
from daemon.tables import Cycle, Slot, VersionRow
from feedback import dataset, db, quarantine, store
from feedback.dataset import Dataset
from feedback.near import prompt_text
from policies.actions import Train
from policies.errors import Refused
from policies.model import Outcome
from policies.trust import Judgement

TEACHER = "teacher"
JUDGE_LIMIT = 2000  # newest judge records that no training example may nearly repeat, and that a candidate is scored on


def job_key(slot: Slot, cycle: int, step: str) -> str:
    """The name of a training job: a decision that is carried out twice finds its first job again."""
    return f"{slot.deployment}{'.' + slot.tenant if slot.tenant else ''}.c{cycle}.{step}"


def train(context: Context, slot: Slot, cycle: Cycle, action: Train) -> Answer:
    """Build the dataset of the window and start the job.

    Raises: Refused where no example can be drawn; Transient where the database is away.
    """
    held = _hold_back(context, slot, action)
    built = db.transact(context.engine, lambda session: _dataset(session, context, slot, action))
    if not built.seqs:
        raise Refused(
            "no record of the window can be learned from", hint="learnctl show says why records were left out"
        )
    key = job_key(slot, cycle.id, action.step)
    again = cycle.job == key
    context.jobs.start(
        JobSpec(
            key=key,
            kind="train",
            entry=f"daemon.training.{action.method}:train",
            inputs=_inputs(context, slot, cycle, action, built),
            seed=action.seed,
            deadline=context.clock.now() + context.policy.method.deadline_hours * 3600,
            device=context.policy.method.device,
        )
    )

    def apply(_session: Session, _slot: Slot, row: Cycle | None) -> None:
        assert row is not None
        row.job, row.step, row.dataset, row.evaluation = key, action.step, built.hash, ""
        row.losses = row.losses + 1 if again else 0

    facts: dict[str, Any] = {"dataset": built.hash, "card": built.card, "method": action.method, "held": held}
    facts |= {"step": action.step, "job": key}
    return Answer(Outcome.TRAINING_STARTED, facts=facts, apply=apply)


def _hold_back(context: Context, slot: Slot, action: Train) -> int:
    """Ask `policies.trust` about the window's raters before anything is drawn from it; how many records are held.

    Judging takes seconds, so it only reads: nobody who writes waits for it.
    """

    def judge(session: Session) -> Judgement:
        known = goldens.references(session, slot.deployment)
        return quarantine.judge(session, slot.deployment, *action.window, context.policy.trust, known)

    found, now = db.read(context.engine, judge), context.clock.now()
    return db.transact(context.engine, lambda session: quarantine.apply(session, slot.deployment, found, now))


def _dataset(session: Session, context: Context, slot: Slot, action: Train) -> Dataset:
    judged = store.judge_items(session, slot.deployment, slot.tenant, 0, action.window[1], JUDGE_LIMIT)
    forbidden = [*goldens.texts(session, slot.deployment), *(prompt_text(item["messages"]) for item in judged)]
    return dataset.build(
        session,
        deployment=slot.deployment,
        tenant=slot.tenant,
        window=action.window,
        mixture=action.mixture,
        anchors=[],
        folder=context.state / "datasets",
        now=context.clock.now(),
        exclude_near=forbidden,
    )


def _inputs(context: Context, slot: Slot, cycle: Cycle, action: Train, built: Dataset) -> dict[str, Any]:
    champion = context.registry.ref(slot.champion)
    depth = _depth(context, slot)
    return {
        "deployment": slot.deployment,
        "method": action.method,
        "step": action.step,
        "dataset": str(built.path),
        "champion": champion.to_json(),
        "base": context.registry.ref(context.registry.manifest(slot.champion)["base"] or slot.champion).to_json(),
        "teacher": _teacher(context, cycle, action),
        "options": dict(context.policy.method.options.get(action.method, {})),
        "depth": depth,
        "max_new_tokens": context.deployment.max_new_tokens,
        "cache": str(context.state / "cache"),
    }


def _depth(context: Context, slot: Slot) -> int:
    """Adapter updates under the champion; 0 asks for a fresh start, where depth has reached what the policy allows."""
    depth = int(context.registry.manifest(slot.champion).get("depth", 0))
    return 0 if depth >= context.policy.method.max_depth else depth


def _teacher(context: Context, cycle: Cycle, action: Train) -> dict[str, Any] | None:
    if action.method != "distill":
        return None
    if action.step == TEACHER:
        named = context.policy.method.teacher
        return None if named == "self" else Ref(name=f"teacher:{named}", folder=named, base="").to_json()
    return context.registry.ref(cycle.teacher).to_json()


def publish(context: Context, slot: Slot, cycle: Cycle) -> tuple[str, dict[str, Any]]:
    """Put what the job made into the registry; the same output gives the same name, however often.

    Raises: Corrupt, Refused by the registry (pickles, missing files).
    """
    result = context.jobs.result(cycle.job)
    folder = context.jobs.folder(cycle.job) / "output"
    teaches = cycle.step == TEACHER
    delivered = teaches and context.policy.method.teacher != "self"  # it came from outside: nothing of ours is in it
    manifest = manifest_of(
        context,
        kind=str(result["kind"]),
        engine=str(result["engine"]),
        base=str(result.get("base", "")),
        parents=[] if delivered else [slot.champion],
        teacher="" if teaches else cycle.teacher,
        dataset="" if delivered else cycle.dataset,
        method="teacher" if teaches else cycle.method,
        seed=cycle.seed,
        depth=int(result.get("depth", 0)),
    )
    return context.registry.publish(folder, manifest), result


def manifest_of(context: Context, **known: Any) -> dict[str, Any]:
    """The manifest of a model folder: what is known about its making; the registry adds what its files say. No times."""
    return {
        "schema": 1,
        "deployment": context.deployment.name,
        "system_prompt": context.deployment.system_prompt,
        "generation": {"max_new_tokens": context.deployment.max_new_tokens, "sample": False},
        "policy_hash": context.policy.hash,
        "code": environment.code_digest(),
        "environment": environment.digest(),
        **known,
    }


def version_row(context: Context, name: str, cycle: Cycle, *, evidence: dict[str, Any], now: float) -> VersionRow:
    """The row of a version that a cycle made: a candidate, or a teacher that only distillation reads."""
    manifest = context.registry.manifest(name)
    return VersionRow(
        name=name,
        deployment=context.deployment.name,
        kind=manifest["kind"],
        base=manifest["base"],
        parent=(manifest["parents"] or [""])[0],
        method=manifest["method"],
        depth=manifest["depth"],
        state=TEACHER if cycle.step == TEACHER else "candidate",
        dataset=manifest["dataset"],
        cycle=cycle.id,
        manifest=manifest,
        evidence=evidence,
        created=now,
    )


def ensure_version(session: Session, row: VersionRow) -> None:
    """Insert the version unless it is there already: content-addressed, so the same name is the same thing."""
    if session.scalar(select(VersionRow.name).where(VersionRow.name == row.name)) is None:
        session.add(row)
