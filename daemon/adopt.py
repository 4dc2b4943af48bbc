"""Adoption: the model that was in production before learnd becomes the slot's first champion, unchanged.

Owns: the slot's row and its first version. Refuses to judge it: it is what the first candidate is judged against. Called
by `daemon.service` at start; running it again changes nothing.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from daemon import learning
from daemon.audit import log as audit
from daemon.context import Context
from daemon.echo_model import FILE
from daemon.tables import PolicyRow, Slot, VersionRow
from feedback import db
from policies.errors import Misconfigured
from policies.model import Phase


def adopt(context: Context, tenant: str = "") -> int:
    """Make sure that the deployment's slot exists and has a champion that the target serves; the slot's id.

    Raises: Misconfigured where the model's folder can't be adopted; Transient where target or database are away.
    """
    name = context.deployment.name

    def find(session: Session) -> tuple[int, str] | None:
        slot = session.scalar(select(Slot).where(Slot.deployment == name, Slot.tenant == tenant))
        return (slot.id, slot.champion) if slot else None

    found = db.read(context.engine, find)
    if found is not None and found[1]:
        return found[0]
    version = _publish(context)
    context.target.load(context.registry.ref(version))
    context.target.route({version: 1.0}, context.token())
    return db.transact(context.engine, lambda session: _write(session, context, tenant, version))


def _publish(context: Context) -> str:
    folder = context.deployment.model
    if not folder.is_dir():
        raise Misconfigured(
            f"deployment {context.deployment.name}: the model folder {folder} does not exist",
            hint="model = a folder written by save_pretrained, with its tokenizer",
        )
    engine = "echo" if (folder / FILE).exists() else "transformers"
    known = {"parents": [], "teacher": "", "dataset": "", "method": "adopted", "seed": 0, "depth": 0}
    manifest = learning.manifest_of(context, kind="base", engine=engine, base="", **known)
    return context.registry.publish(folder, manifest)


def _write(session: Session, context: Context, tenant: str, version: str) -> int:
    now, name = context.clock.now(), context.deployment.name
    slot = session.scalar(select(Slot).where(Slot.deployment == name, Slot.tenant == tenant))
    if slot is None:
        slot = Slot(deployment=name, tenant=tenant, phase=Phase.GATHERING.value, phase_since=now)
        session.add(slot)
    slot.champion = slot.anchor = version
    slot.promoted = now
    manifest = context.registry.manifest(version)
    row = VersionRow(
        name=version,
        deployment=name,
        kind="base",
        base="",
        method="adopted",
        state="champion",
        manifest=manifest,
        created=now,
    )
    learning.ensure_version(session, row)
    audit.append(
        session,
        now=now,
        actor="configuration",
        action="adopted",
        reason=f"{context.deployment.model.name} served before learnd came",
        deployment=name,
        version=version,
        policy_hash=context.policy.hash,
        facts={"files": manifest["files"], "tenant": tenant},
    )
    session.flush()
    return slot.id


def record_policy(session: Session, deployment: str, hash_: str, text: str, now: float, previous: str = "") -> bool:
    """Keep the policy's text by its hash, and audit that it came into force; true where it was new to the log."""
    row = session.get(PolicyRow, hash_)
    if row is None:
        session.add(PolicyRow(hash=hash_, deployment=deployment, text=text, loaded=now))
    elif previous in ("", hash_):
        return False
    audit.append(
        session,
        now=now,
        actor="configuration",
        action="policy",
        reason="a policy came into force",
        deployment=deployment,
        policy_hash=hash_,
        facts={"before": previous},
    )
    return True
