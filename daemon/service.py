"""The service: settings in, everything wired, one loop over all slots.

Owns: the order of starting and stopping, who runs in which thread, and when there is nothing left to do. Refuses to decide
(`policies`) and to know what a deployment is for. Called by `daemon.main` and the demo.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from sqlalchemy.orm import Session

from daemon import (
    adopt,
    clock,
    enforcing,
    heartbeat,
    held_policies,
    housekeeping,
    logs,
    loop,
    returning,
    schema,
    sdnotify,
    targets,
)
from daemon.audit import log as audit
from daemon.clock import Clock, SystemClock
from daemon.config import Deployment, Settings, canonical, load, parse_policy, usable_policy
from daemon.context import Context
from daemon.grants import grants
from daemon.intake import Intake
from daemon.jobs import Jobs
from daemon.jobs.local import LocalJobs
from daemon.lease import Leadership
from daemon.notify import Alert, Notifier
from daemon.registry import Registry
from daemon.tables import PolicyRow, Slot
from feedback import db
from policies.errors import LearndError, Misconfigured, Transient
from policies.model import Phase
from policies.policy import Policy

logger = structlog.get_logger()
BUSY = frozenset({Phase.TRAINING.value, Phase.EVALUATING.value, Phase.PROMOTING.value, Phase.ROLLING_BACK.value})
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Running:
    """One deployment's slot with its hands; swapped whole at a reload, between two ticks."""

    slot: int
    context: Context


class Service:
    """learnd in one object: `start`, then `run` (or `ingest_once` and `tick` by hand), then `stop`."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, jobs: Jobs | None = None) -> None:
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        settings.state.mkdir(parents=True, exist_ok=True)
        self.engine = db.connect(settings.database)
        self.registry = Registry(settings.state / "registry")
        self.jobs: Jobs = jobs or LocalJobs(settings.state / "jobs", now=self.clock.now, preload=settings.preload_jobs)
        self.lease = Leadership(self.engine)
        self.intake = Intake(self.engine, settings, self.clock)
        self._running: dict[str, _Running] = {}
        self._policies: dict[str, Policy] = {}
        self._wake = threading.Event()
        self._reload = threading.Event()
        self._threads: list[threading.Thread] = []
        self._closers: list[Callable[[], None]] = []
        self._notifier = Notifier(settings.alerts)

    def start(self, stop: threading.Event | None = None) -> bool:
        """Migrate, wait for the lease, adopt what is new, and say so in the audit log; false when stopped meanwhile.

        Raises: Misconfigured (schema, policy, model folder), Transient (database or target away).
        """
        schema.migrate(self.engine)
        # A standby is as ready as it can be: systemd must neither kill it nor wait for it.
        sdnotify.notify("READY=1", "STATUS=standby: waiting for the lease")
        if not self.lease.acquire(stop):
            return False
        self.registry.clean()
        for deployment in self.settings.deployments.values():
            self._begin(deployment, self._ruled(deployment.name, usable_policy(deployment.policy)))
        self._note("started", "the service started", {"deployments": sorted(self._running)})
        self._beat(since=self.clock.now())
        return True

    def _begin(self, deployment: Deployment, policy: Policy) -> None:
        kind = targets.load(deployment.target.kind)
        context = Context(
            engine=self.engine,
            deployment=deployment,
            policy=policy,
            jobs=self.jobs,
            registry=self.registry,
            target=kind.Target(deployment.target.options),
            clock=self.clock,
            state=self.settings.state,
            database=self.settings.database,
            token=self.lease.token,
            policy_of=self._policy_of,
            target_splits=bool(kind.SPLITS),
        )
        self._enforce(deployment.name, policy)
        self._running[deployment.name] = _Running(adopt.adopt(context), context)

    def _ruled(self, name: str, policy: Policy) -> Policy:
        """The policy that may be in force: the file's, or the one before while what it loosens waits for a person.

        Raises: Misconfigured where it newly promises what its sets can't prove.
        """
        now, before = self.clock.now(), None
        last = db.read(self.engine, lambda session: heartbeat.last_policy(session, name))
        if last:
            try:
                before = self._policy_of(last)
            except Misconfigured as error:
                logger.warning("the policy before can't be read, so nothing is compared", why=str(error))
        return db.transact(self.engine, lambda session: enforcing.rule(session, name, policy, before, now))

    def _enforce(self, name: str, policy: Policy) -> None:
        """A change of policy is an audit entry, with the policy before it."""
        now = self.clock.now()
        before = db.read(self.engine, lambda session: heartbeat.last_policy(session, name))
        db.transact(
            self.engine,
            lambda s: adopt.record_policy(s, name, policy.hash, canonical(policy), now, previous=before),
        )
        self._policies[policy.hash] = policy

    def _policy_of(self, hash_: str) -> Policy:
        """The policy of that hash, from memory or the database.

        Raises: Misconfigured where it was never stored.
        """
        if hash_ not in self._policies:
            row = db.read(self.engine, lambda session: session.get(PolicyRow, hash_))
            if row is None:
                raise Misconfigured(f"policy {hash_[:12]} is not stored", hint="was the database replaced?")
            self._policies[hash_] = parse_policy(row.text, f"policy {hash_[:12]}")
        return self._policies[hash_]

    def wake(self) -> None:
        """Let the loop look now instead of at its next tick."""
        self._wake.set()

    def reload(self) -> None:
        """Ask for a reload between two ticks."""
        self._reload.set()
        self._wake.set()

    def _reload_now(self) -> None:
        """Parse everything, then swap; an invalid file keeps the old policies and says so.

        So does a policy that promises what its sets can't prove; one that lets more through waits alone.
        """
        self._reload.clear()
        sdnotify.notify("RELOADING=1")
        try:
            settings = load(self.settings.path)
            policies = {name: self._ruled(name, usable_policy(d.policy)) for name, d in settings.deployments.items()}
        except LearndError as error:
            logger.error("reload refused: the old policies stay", error=str(error), hint=error.hint)
            self._note("reload:refused", str(error), {"hint": error.hint})
            sdnotify.notify("READY=1", f"STATUS=reload refused: {error}")
            return
        self.settings = settings
        self.intake.reload(settings)
        for name, policy in policies.items():
            running = self._running.get(name)
            if running is None:
                self._begin(settings.deployments[name], policy)
                continue
            if policy.hash != running.context.policy.hash:
                self._enforce(name, policy)
                self._running[name] = replace(running, context=replace(running.context, policy=policy))
        self._note("reloaded", "SIGHUP", {"policies": {name: p.hash for name, p in policies.items()}})
        sdnotify.notify("READY=1")

    def ingest_once(self, wait_seconds: float | None = None) -> int:
        """Read what the sources have, once, waiting so long for a first record; the number of records read."""
        return self.intake.step(wait_seconds)

    def tick(self) -> bool:
        """One pass over every slot; true when something happened or is still going on."""
        if self._reload.is_set() or self._approved():
            self._reload_now()
        self.lease.renew()
        now = self.clock.now()
        for running in self._running.values():
            db.transact(self.engine, lambda s, r=running: _fall_due(s, r.context, now))  # type: ignore[misc]
        given = grants(self.engine, {name: r.context for name, r in self._running.items()})
        busy = False
        reasons = []
        for name, running in self._running.items():
            done = loop.tick(running.context, running.slot, given[name])
            reasons.append(f"{name}: {done.reason}")
            if done.alarm:
                self._notifier.alert(Alert(done.alarm, name, done.reason, "learnctl status", now))
            busy = busy or done.acted or not done.waiting or self._works(running.slot)
        housekeeping.tidy(self.engine, self.settings, self.registry, now)
        self._beat()
        sdnotify.notify("WATCHDOG=1", "STATUS=" + " | ".join(reasons)[:400])
        return busy

    def _approved(self) -> bool:
        """Whether a policy that waits was approved since the last tick."""
        names = list(self._running)
        waits = db.read(self.engine, lambda session: any(held_policies.waiting(session, name) for name in names))
        return waits and db.transact(self.engine, lambda session: held_policies.take(session, names))

    def _works(self, slot_id: int) -> bool:
        """Whether a job of the slot is under way: idle means that nothing would ever happen by itself."""

        def look(session: Session) -> bool:
            slot = session.get_one(Slot, slot_id)
            return slot.phase in BUSY or bool(slot.evidence_job) or returning.waits(session, slot_id)

        return db.read(self.engine, look)

    def run(self, *, until_idle: bool = False, stop: threading.Event | None = None) -> None:
        """Work until `stop` is set, or with `until_idle` until there is nothing left to do.

        Raises: Misconfigured, Corrupt; a Transient is waited out.
        """
        stop = stop or threading.Event()
        try:
            if not self.start(stop):
                return
            if until_idle:
                self._work_off(stop)
            else:
                self._serve(stop)
        finally:
            self.stop()

    def _work_off(self, stop: threading.Event) -> None:
        quiet = 0
        while not stop.is_set() and quiet < 2:
            read = self.ingest_once()
            busy = self.tick()
            quiet = 0 if read or busy else quiet + 1
            if not read:
                self.clock.wait(stop, POLL_SECONDS)

    def _serve(self, stop: threading.Event) -> None:
        self._listen(stop)
        waiting = logs.Waiting(logger, "waiting for the world")
        while not stop.is_set():
            self._wake.clear()
            pause = POLL_SECONDS
            try:
                pause = POLL_SECONDS if self.tick() else self.settings.tick_seconds
                waiting.told(None)
            except Transient as error:
                waiting.told(error)
                sdnotify.notify(f"STATUS=waiting: {error}")
                pause = self.settings.tick_seconds
            self.clock.wait(self._wake, pause)

    def _listen(self, stop: threading.Event) -> None:
        """Start what runs beside the loop: intake, the control socket, the calendar; a stop wakes the loop."""
        from daemon import api

        lines = {}
        for name, running in self._running.items():
            lines[f"learn/{name}"] = running.context.policy.triggers.schedule
            lines[f"evidence/{name}"] = running.context.policy.drift.evidence_schedule
        scheduler = clock.alarm(lines, self.wake)
        self._closers.append(lambda: scheduler.shutdown(wait=False))
        self._threads += self.intake.threads(stop)
        server = api.serve(self.settings, self.engine, wake=self.wake, now=self.clock.now)
        self._closers.append(server.stop)
        self._threads.append(threading.Thread(target=self._tell, args=(stop,), name="alerts", daemon=True))
        for thread in self._threads:
            thread.start()

    def _tell(self, stop: threading.Event) -> None:
        """Deliver alerts beside the loop, so that no tick waits for somebody's mail server."""
        while not stop.wait(self.settings.tick_seconds):
            self._notifier.deliver()

    def stop(self) -> None:
        """Leave cleanly: sources committed, lease given back, running jobs left to be found again."""
        sdnotify.notify("STOPPING=1")
        for close in reversed(self._closers):
            close()
        for thread in self._threads:
            thread.join(timeout=30)
        self.intake.close()
        self.jobs.close()
        try:
            self._notifier.deliver()
            if self._running:
                self._note("stopped", "the service stopped", {})
                self._beat(stopped=True)
            self.lease.release()
        except Transient as error:  # the lease runs out by itself
            logger.warning("left without a note of it", error=str(error), hint=error.hint)
        finally:
            self.engine.dispose()

    def _note(self, action: str, reason: str, facts: Mapping[str, Any]) -> None:
        now = self.clock.now()
        db.transact(
            self.engine,
            lambda s: audit.append(
                s, now=now, actor="learnd", action=action, reason=reason, facts={"pid": os.getpid(), **facts}
            ),
        )

    def _beat(self, *, since: float | None = None, stopped: bool = False) -> None:
        hashes = {name: running.context.policy.hash for name, running in self._running.items()}
        now = self.clock.now()
        db.transact(self.engine, lambda s: heartbeat.beat(s, now, hashes, since=since, stopped=stopped))


def _fall_due(session: Session, context: Context, now: float) -> None:
    clock.falls_due(session, f"learn/{context.deployment.name}/", context.policy.triggers.schedule, now)
