"""The main job on real input: banking77 comes in domain after domain, learnd consumes, learns and promotes.

Owns: the course of the benchmark, its figures and claims. Refuses to steer learnd: `learnd run` is a process of its own
on a real Kafka topic and PostgreSQL, a producer is another, and what is looked at is what any operator can read.
Called as `python -m tests.benchmarks.stream_banking77 --out FILE [--quick] [--seed N]`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from daemon import models
from daemon.clock import SystemClock
from daemon.demo.stage import current
from daemon.tables import Cycle, Slot
from feedback import db, store
from feedback.tables import Record
from tests.benchmarks import _banking77 as bank
from tests.benchmarks import common
from tests.benchmarks._banking77 import Data, Query
from tests.servers import folder
from tests.servers.kafka import Broker, kafka
from tests.servers.postgres import postgres

NAME, TOPIC = "bank", "feedback"
DEADLINE = 3600.0
LONGEST_ANSWER = 24
UNSAFE_SHARE = 0.15  # of the questions of known domains, beside them


@dataclass(frozen=True)
class Plan:
    """How much: `intents` of each domain, `arriving` domains, training `epochs`, records of old domains a stretch."""

    intents: int
    arriving: int
    epochs: float
    old: int
    votes: int
    goldens: int
    minimum: int
    exam: int


FULL = Plan(intents=11, arriving=4, epochs=12.0, old=1000, votes=600, goldens=600, minimum=1900, exam=10_000)
QUICK = Plan(intents=3, arriving=1, epochs=12.0, old=900, votes=250, goldens=200, minimum=1700, exam=120)

CONFIG = """
[service]
state = "state"
database = "{database}"
socket = "control.sock"
tick_seconds = 0.5

[[sources]]
kind = "kafka"
servers = ["{bootstrap}"]
topics = ["feedback"]

[deployments.bank]
model = "model"
policy = "policy.toml"
consent_default = "shared"
max_new_tokens = 24

[deployments.bank.target]
kind = "files"
folder = "serving"
"""

POLICY = """
mode = "auto"
[triggers]
volume = {minimum}
minimum = {minimum}
cooldown_hours = 0.0
[drift]
evidence_schedule = ""
[method]
allowed = ["lora"]
device = "cpu"
deadline_hours = 3.0
max_depth = 100
[method.options.lora]
sft_epochs = 5.0
sft_lr = 3e-3
batch = 32
dpo = false
kto = false
save_steps = 0
threads = 1
[mixture]
replay = 0.5
[watch]
margin = 0.15
minimum_votes = 100
minimum_hours = 0.0
deadline_hours = 0.5
[gates.safety]
limits = {{ harmful = 0.06, benign = 0.1 }}
[gates.regression]
margin = 0.1
cumulative_margin = 0.15
flips = 0.2
[gates.retention]
margin = 0.12
kl_budget = 2.0
[gates.improvement]
[gates.budget]
latency_ratio = 20.0
tokens_ratio = 0.02
memory_ratio = 3.0
size_ratio = 2.0
[gates.data]
[gates.proof]
"""


@dataclass
class Run:
    """What the benchmark holds while it runs; figures gather in `course`."""

    place: Path
    plan: Plan
    data: Data
    broker: Broker
    engine: Engine
    rng: random.Random
    began: float = field(default_factory=perf_counter)
    sent: int = 0
    unique: int = 0
    course: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, line: str) -> None:
        """A line with the time since the beginning."""
        sys.stdout.write(f"{perf_counter() - self.began:7.1f} s  {line}\n")
        sys.stdout.flush()

    def produce(self, name: str, queries: Sequence[Query]) -> dict[str, Any]:
        """Let the producer process ask these queries and wait until learnd has stored them."""
        spec = {
            "name": name,
            "queries": [{"text": query.text, "answer": bank.answer(query)} for query in queries],
            "bootstrap": self.broker.bootstrap,
            "topic": TOPIC,
            "serving": str(self.place / "serving"),
            "deployment": NAME,
            "max_new_tokens": LONGEST_ANSWER,
        }
        path = self.place / f"{name}.json"
        path.write_text(json.dumps(spec), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks._producer", str(path)], check=True, capture_output=True, text=True
        )
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.sent += told["sent"]
        self.unique += told["unique"]
        self.until(lambda session: store.counters(session, NAME)["stored"] >= self.unique, f"{name} stored", 300.0)
        self.tell(f"{name}: {told['unique']} records, {told['right'] / told['unique']:.1%} answered right")
        return told

    def until(self, reached: Any, what: str, seconds: float = DEADLINE) -> None:
        """Wait until `reached(session)`. Raises: TimeoutError."""
        end = perf_counter() + seconds
        while not db.read(self.engine, reached):
            if perf_counter() > end:
                raise TimeoutError(f"{what}: not after {seconds:.0f} s; {self.standing()}")
            SystemClock().wait(threading.Event(), 0.5)

    def standing(self) -> str:
        """Where the slot stands, in learnd's own words."""
        return db.read(self.engine, lambda s: "; ".join(f"{r.phase}: {r.reason}" for r in s.scalars(select(Slot))))

    def measure(self, after: str) -> None:
        """Accuracy of what is served on test queries of every domain, greedy and exact over all intents."""
        model = models.load(current(self.place / "serving"))
        accuracy = []
        for domain in range(bank.GROUPS):
            queries = self.data.of([domain], test=True)[: self.plan.exam]
            said = model.answer([[{"role": "user", "content": q.text}] for q in queries], max_new_tokens=LONGEST_ANSWER)
            accuracy.append(sum(text == bank.answer(q) for q, text in zip(queries, said, strict=True)) / len(queries))
        self.course.append({"after": after, "seconds": round(perf_counter() - self.began, 1), "accuracy": accuracy})
        self.tell(f"{after:12} " + "  ".join(f"{100 * share:5.1f}" for share in accuracy))


def main() -> int:
    """Run it; 0 when every claim holds."""
    parser = argparse.ArgumentParser(prog="stream_banking77", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="three intents a domain, one domain arrives")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not bank.FOLDER.is_dir():
        sys.stderr.write(f"{bank.FOLDER} is not there: put banking77's train.csv, test.csv and categories.json there\n")
        return 69
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    plan = QUICK if given.quick else FULL
    data = bank.read(plan.intents)
    with folder("learnd-bank-") as place, kafka() as broker, postgres() as server:
        broker.topic(TOPIC, partitions=3)
        broker.topic(f"{TOPIC}.dlq")
        database = server.database()
        engine = db.connect(database)
        run = Run(place, plan, data, broker, engine, random.Random(given.seed))
        try:
            raw = _play(run, database, given.seed)
        finally:
            engine.dispose()
    claims = _claims(run, raw)
    common.write(given.out, name="stream_banking77", seeds=[given.seed], raw=raw, claims=claims)
    common.picture(given.out, lambda axes: _draw(axes, run.course))
    sys.stdout.write(common.told(claims) + "\n")
    return 0 if all(claim.holds for claim in claims) else 1


def _play(run: Run, database: str, seed: int) -> dict[str, Any]:
    steps = bank.first_model(run.data, run.place / "model", seed, run.plan.epochs)
    run.tell(f"first model: {steps} steps on domains 1 to {bank.KNOWN}")
    config = run.place / "learnd.toml"
    config.write_text(CONFIG.format(database=database, bootstrap=run.broker.bootstrap), encoding="utf-8")
    (run.place / "policy.toml").write_text(POLICY.format(minimum=run.plan.minimum), encoding="utf-8")
    with _learnd(config, run.place):
        run.until(_begun, "learnd running", 120.0)
        for role, text in bank.golden_sets(run.data, run.rng, run.plan.goldens).items():
            path = run.place / f"{role}.jsonl"
            path.write_text(text, encoding="utf-8")
            _ctl(config, "goldens", "import", str(path), "--role", role)
        run.measure("base")
        run.produce("known", _some(run, range(bank.KNOWN), run.plan.old))
        for domain in range(bank.KNOWN, bank.KNOWN + run.plan.arriving):
            _arrive(run, domain)
    return _raw(run, steps)


def _arrive(run: Run, domain: int) -> None:
    """A domain arrives among questions of the known ones; once promoted, its users vote until the watch has ended."""
    before = db.read(run.engine, _cycles)
    arriving = [*run.data.of([domain]), *_some(run, range(domain), run.plan.old)]
    run.rng.shuffle(arriving)
    run.produce(f"domain-{domain + 1}", arriving)
    run.until(lambda s: _cycles(s) > before and _watching_or_ended(s), f"domain {domain + 1} learned")
    run.tell(run.standing()[:160])
    run.measure(f"domain {domain + 1}")
    run.produce(f"votes-{domain + 1}", _some(run, range(domain + 1), run.plan.votes))
    run.until(_ended, f"domain {domain + 1} settled")
    run.tell(run.standing()[:160])


def _some(run: Run, domains: range, count: int) -> list[Query]:
    pool = run.data.of(domains)
    asked = [run.rng.choice(pool) for _ in range(count)]
    return [*asked, *bank.unsafe(run.rng, round(count * UNSAFE_SHARE))]


@contextmanager
def _learnd(config: Path, place: Path) -> Iterator[None]:
    with (place / "learnd.log").open("wb") as log:
        process = subprocess.Popen(_program("daemon.main", "run", "--config", str(config)), stderr=log, stdout=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def _ctl(config: Path, *arguments: str) -> None:
    subprocess.run(_program("daemon.ctl", "--config", str(config), *arguments), check=True, capture_output=True)


def _program(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", f"from {module} import main; main()", *arguments]


def _begun(session: Session) -> bool:
    connection = session.connection()
    if not connection.dialect.has_table(connection, Slot.__tablename__):
        return False
    return session.scalar(select(func.count()).select_from(Slot)) == 1


def _cycles(session: Session) -> int:
    return session.scalar(select(func.max(Cycle.id))) or 0


def _watching_or_ended(session: Session) -> bool:
    return _ended(session) or session.scalars(select(Slot)).one().phase == "watching"


def _ended(session: Session) -> bool:
    return session.scalar(select(Cycle.ended).order_by(Cycle.id.desc()).limit(1)) is not None


def _raw(run: Run, steps: int) -> dict[str, Any]:
    def rows(session: Session) -> dict[str, Any]:
        cycles = [
            {"cycle": c.id, "trigger": c.trigger, "outcome": c.outcome, "reason": c.outcome_reason,
             "window": [c.window_first, c.window_last], "seconds": c.spent_seconds}
            for c in session.scalars(select(Cycle).order_by(Cycle.id))
        ]  # fmt: skip
        ids = session.execute(select(func.count(), func.count(func.distinct(Record.id))).select_from(Record)).one()
        return {"cycles": cycles, "rows": ids[0], "ids": ids[1], "counters": store.counters(session, NAME)}

    return {
        "plan": vars(run.plan),
        "first_model_steps": steps,
        "sent": run.sent,
        "unique": run.unique,
        "course": run.course,
        "seconds": round(perf_counter() - run.began, 1),
        **db.read(run.engine, rows),
    }


def _claims(run: Run, raw: dict[str, Any]) -> list[common.Claim]:
    base = run.course[0]["accuracy"]
    learned = [row["accuracy"][bank.KNOWN + at] for at, row in enumerate(run.course[1:])]
    old = [
        sum(base[: bank.KNOWN]) / bank.KNOWN - sum(row["accuracy"][: bank.KNOWN]) / bank.KNOWN for row in run.course[1:]
    ]
    promoted = sum(cycle["outcome"] in ("settled", "unproven") for cycle in raw["cycles"])
    return [
        common.Claim("promoted_updates", promoted, run.plan.arriving),
        common.Claim("new_domain_accuracy", round(sum(learned) / len(learned), 4), 0.75),
        common.Claim("old_domain_loss", round(max(old), 4), 0.1, least=False),
        common.Claim("lost", raw["unique"] - raw["ids"], 0, least=False),
        common.Claim("doubled", raw["rows"] - raw["ids"], 0, least=False),
    ]


def _draw(axes: Any, course: Sequence[dict[str, Any]]) -> None:
    names = [row["after"] for row in course]
    for domain in range(bank.GROUPS):
        style = "-" if domain < bank.KNOWN else "--"
        axes.plot(names, [100 * row["accuracy"][domain] for row in course], style, marker="o", label=f"{domain + 1}")
    axes.set_ylabel("test queries answered right, %")
    axes.set_xlabel("served after")
    axes.set_title("banking77 as a stream: accuracy by domain (solid: known at first)")
    axes.legend(title="domain", ncols=2)


if __name__ == "__main__":
    sys.exit(main())
