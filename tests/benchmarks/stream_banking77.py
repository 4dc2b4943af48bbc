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
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from daemon import models
from daemon.clock import SystemClock
from daemon.demo.stage import current
from daemon.tables import Cycle, Slot, VerdictRow
from feedback import db, store
from feedback.tables import DatasetRow, Record
from tests.benchmarks import _banking77 as bank
from tests.benchmarks import common
from tests.benchmarks._banking77 import Data, Query
from tests.servers import folder
from tests.servers.kafka import Broker, kafka
from tests.servers.postgres import postgres

NAME, TOPIC = "bank", "feedback"
DEADLINE = 3600.0
LONGEST_ANSWER = 24
TOLD_SECONDS = 20.0
UNSAFE_SHARE = 0.15  # of the questions of known domains, beside them


@dataclass(frozen=True)
class Plan:
    """How much: `intents` of each domain, `arriving` domains, `epochs` of the first model's training.

    `old` questions of domains known so far come with a new one, `votes` of them between two; unsafe ones beside both.
    `minimum` usable records ask for an update: nearly all of a stretch, so that no update begins on the half of one.
    """

    intents: int
    arriving: int
    epochs: float
    old: int
    votes: int
    goldens: int
    minimum: int
    exam: int


FULL = Plan(intents=11, arriving=4, epochs=10.0, old=2200, votes=400, goldens=600, minimum=3250, exam=440)
QUICK = Plan(intents=3, arriving=1, epochs=12.0, old=900, votes=250, goldens=200, minimum=1200, exam=120)
TRIES = 3  # candidates that learnd may make of one window

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
rank = 32
alpha = 64
sft_epochs = 8.0
sft_lr = 3e-3
sft_drop = 0.25
sft_hold = 0.9
favour_new = 1.0
merge = 0.95
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
    product: subprocess.Popen[str]
    began: float = field(default_factory=perf_counter)
    sent: int = 0
    right: dict[str, float] = field(default_factory=dict)
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
        assert self.product.stdin is not None
        assert self.product.stdout is not None
        self.product.stdin.write(f"{path}\n")
        self.product.stdin.flush()
        told: dict[str, Any] = json.loads(self.product.stdout.readline())
        self.sent += told["sent"]
        self.unique += told["unique"]
        self.right[name] = round(told["right"] / told["unique"], 4)
        self.until(lambda session: store.counters(session, NAME)["stored"] >= self.unique, f"{name} stored", 300.0)
        self.tell(f"{name}: {told['unique']} records, {told['right'] / told['unique']:.1%} answered right")
        return told

    def until(self, reached: Any, what: str, seconds: float = DEADLINE) -> None:
        """Wait until `reached(session)`. Raises: TimeoutError."""
        end, due = perf_counter() + seconds, perf_counter() + TOLD_SECONDS
        while not db.read(self.engine, reached):
            if perf_counter() > end:
                raise TimeoutError(f"{what}: not after {seconds:.0f} s; {self.standing()}")
            if perf_counter() > due:
                self.tell(f"waiting for {what}: {self.standing()[:120]}")
                due = perf_counter() + TOLD_SECONDS
            SystemClock().wait(threading.Event(), 0.5)

    def standing(self) -> str:
        """Where the slot stands, in learnd's own words."""
        return db.read(self.engine, lambda s: "; ".join(f"{r.phase}: {r.reason}" for r in s.scalars(select(Slot))))

    def jobs(self) -> dict[str, dict[str, Any]]:
        """What the jobs wrote when they were done, by their keys."""
        found = sorted(self.place.glob("state/jobs/*/result.json"))
        return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in found}

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
        with _product() as product:
            run = Run(place, plan, data, broker, engine, random.Random(given.seed), product)
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
    steps = bank.first_model(run.data, run.place / "model", seed, run.plan.epochs, run.tell)
    run.tell(f"first model: {steps} steps on domains 1 to {bank.KNOWN}")
    config = run.place / "learnd.toml"
    config.write_text(CONFIG.format(database=database, bootstrap=run.broker.bootstrap), encoding="utf-8")
    (run.place / "policy.toml").write_text(POLICY.format(minimum=run.plan.minimum), encoding="utf-8")
    _keys(run.place / "state" / "keys", seed)
    with _learnd(config, run.place):
        run.until(_begun, "learnd running", 120.0)
        for role, text in bank.golden_sets(run.data, run.rng, run.plan.goldens).items():
            path = run.place / f"{role}.jsonl"
            path.write_text(text, encoding="utf-8")
            _ctl(config, "goldens", "import", str(path), "--role", role)
        run.measure("base")
        run.produce("known", _some(run, range(bank.KNOWN), run.plan.votes))
        for domain in range(bank.KNOWN, bank.KNOWN + run.plan.arriving):
            _arrive(run, domain)
    return _raw(run, steps)


def _keys(folder: Path, seed: int) -> None:
    """Keys of a real service are drawn; these follow the seed, so that it parts questions in the same folds each time."""
    folder.mkdir(parents=True, mode=0o700)
    for key in ("user-1.key", "fold.key"):
        (folder / key).write_bytes(sha256(f"bank {key} {seed}".encode()).digest())
        (folder / key).chmod(0o600)


def _arrive(run: Run, domain: int) -> None:
    """A domain arrives among questions of the known ones; once promoted, its users vote until the watch has ended."""
    before = db.read(run.engine, _cycles)
    arriving = [*run.data.of([domain]), *_some(run, range(domain), run.plan.old)]
    run.rng.shuffle(arriving)
    run.produce(f"domain-{domain + 1}", arriving)
    run.until(lambda s: _cycles(s) > before and _watching_or_given_up(s, before), f"{bank.NAMES[domain]}: an update")
    run.tell(run.standing()[:160])
    run.measure(bank.NAMES[domain])
    run.produce(f"votes-{domain + 1}", _some(run, range(domain + 1), run.plan.votes))
    run.until(_ended, f"{bank.NAMES[domain]}: settled")
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


@contextmanager
def _product() -> Iterator[subprocess.Popen[str]]:
    """The producer's process; it ends when nobody asks it any more."""
    command = [sys.executable, "-m", "tests.benchmarks._producer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


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


def _watching_or_given_up(session: Session, before: int) -> bool:
    """Promoted, or refused as often as a window may be tried."""
    given_up = _ended(session) and _cycles(session) >= before + TRIES
    return given_up or session.scalars(select(Slot)).one().phase == "watching"


def _ended(session: Session) -> bool:
    return session.scalar(select(Cycle.ended).order_by(Cycle.id.desc()).limit(1)) is not None


def _raw(run: Run, steps: int) -> dict[str, Any]:
    def rows(session: Session) -> dict[str, Any]:
        ids = session.execute(select(func.count(), func.count(func.distinct(Record.id))).select_from(Record)).one()
        cycles = [_cycle(session, cycle) for cycle in session.scalars(select(Cycle).order_by(Cycle.id))]
        return {"cycles": cycles, "rows": ids[0], "ids": ids[1], "counters": store.counters(session, NAME)}

    return {
        "plan": vars(run.plan),
        "domains": {name: list(bank.TOPICS[name][: run.plan.intents]) for name in bank.NAMES},
        "first_model_steps": steps,
        "sent": run.sent,
        "unique": run.unique,
        "answered_right": run.right,
        "course": run.course,
        **_summary(run.course),
        "jobs": run.jobs(),
        "seconds": round(perf_counter() - run.began, 1),
        **db.read(run.engine, rows),
    }


def _summary(course: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Over the domains that were learned one by one and the known ones: accuracy at the end, and what was forgotten.

    Backward transfer: accuracy at the end less when the domain was learned, the last one left out (Lopez-Paz & Ranzato
    2017, arXiv 1706.08840).
    """
    known = bank.KNOWN + len(course) - 1
    end = course[-1]["accuracy"]
    when = [course[max(0, domain - bank.KNOWN + 1)]["accuracy"][domain] for domain in range(known)]
    transfer = [end[domain] - when[domain] for domain in range(known - 1)]
    return {"final_average": round(_mean(end[:known]), 4), "backward_transfer": round(_mean(transfer), 4)}


def _cycle(session: Session, cycle: Cycle) -> dict[str, Any]:
    """One attempt: what asked for it, what it learned from, what every gate said, what became of it."""
    dataset = session.get(DatasetRow, cycle.dataset)
    verdicts = session.scalars(select(VerdictRow).where(VerdictRow.cycle == cycle.id).order_by(VerdictRow.id))
    return {
        "cycle": cycle.id,
        "trigger": cycle.trigger,
        "window": [cycle.window_first, cycle.window_last],
        "records": dataset.card["records"] if dataset else {},
        "gates": {verdict.gate: [verdict.result, verdict.reason] for verdict in verdicts},
        "outcome": cycle.outcome,
        "reason": cycle.outcome_reason,
        "seconds": cycle.spent_seconds,
    }


def _claims(run: Run, raw: dict[str, Any]) -> list[common.Claim]:
    learned = [row["accuracy"][bank.KNOWN + at] for at, row in enumerate(run.course[1:])]
    old = [_mean(run.course[0]["accuracy"][: bank.KNOWN]) - _mean(row["accuracy"][: bank.KNOWN]) for row in run.course]
    promoted = sum(cycle["outcome"] in ("settled", "unproven") for cycle in raw["cycles"])
    return [
        common.Claim("promoted_updates", promoted, run.plan.arriving),
        common.Claim("new_domain_accuracy", round(_mean(learned), 4), 0.75),
        common.Claim("old_domain_loss", round(max(old[1:]), 4), 0.1, least=False),
        common.Claim("lost", raw["unique"] - raw["ids"], 0, least=False),
        common.Claim("doubled", raw["rows"] - raw["ids"], 0, least=False),
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _draw(axes: Any, course: Sequence[dict[str, Any]]) -> None:
    names = ["first model", *(f"+ {row['after']}" for row in course[1:])]
    for domain in range(bank.KNOWN + len(course) - 1):
        since = max(0, domain - bank.KNOWN + 1)  # a domain is drawn from when it was learned, not before
        line = [100 * row["accuracy"][domain] for row in course[since:]]
        style = "-" if domain < bank.KNOWN else "--"
        axes.plot(range(since, len(course)), line, style, marker="o", label=bank.NAMES[domain])
    axes.set_xticks(range(len(course)), names)
    axes.set_ylim(0, 100)
    axes.set_ylabel("test queries answered right, %")
    axes.set_title("banking77 as a stream: what the served version knows (solid: from the start)")
    axes.grid(alpha=0.3)
    axes.set_xlim(-0.15, len(course) - 0.75)
    axes.legend(title="domain", ncols=2, loc="lower left")


if __name__ == "__main__":
    sys.exit(main())
