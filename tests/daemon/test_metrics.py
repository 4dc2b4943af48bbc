"""A scrape shows what the tables hold, in names that don't change."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from daemon import metrics, tallies, views
from daemon.audit import log
from daemon.tables import Cycle, Decision, Lease, Slot, VerdictRow
from feedback.db import connect, read, transact
from feedback.tables import Gap, Tombstone
from tests import fresh


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/learnd.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = connect(url)
    fresh.migrate(made)
    yield made
    made.dispose()


def cycle(**more: object) -> Cycle:
    given = {"slot": 1, "trigger": "", "reason": "", "method": "lora", "step": "candidate", "started": 10.0}
    return Cycle(**{**given, "window_first": 0, "window_last": 1, "seed": 1, "policy_hash": "", **more})


def happened(session: Session) -> None:
    session.add(Slot(deployment="bot", phase="training", phase_since=5.0, reason="training: half way"))
    session.flush()
    session.add_all(
        [
            cycle(outcome="settled", ended=40.0, spent_seconds=7.0),
            cycle(outcome="settled", ended=20.0, spent_seconds=1.0),
            cycle(outcome="", job="job"),
        ]
    )
    session.add(
        VerdictRow(
            cycle=1, evaluation="e", version="bot@1", champion="", anchor="", gate="safety", gate_version=1,
            result="fail", reason="", claims=[], policy_hash="", at=1.0,
        )
    )  # fmt: skip
    for outcome in ("settled", None):
        session.add(
            Decision(slot=1, action="Train", body={}, reason="", snapshot={}, policy_hash="", at=1.0, outcome=outcome)
        )
    session.add(Gap(source="s", partition=0, first=1, last=2, at=1.0))
    session.add(Tombstone(deployment="bot", request="id:1", seqs=[], versions=[], at=1.0))
    session.add(Lease(name="learnd", holder="a", token=4, until=0.0))
    log.append(session, now=1.0, actor="a", action="b", reason="c")


def scraped(engine: Engine) -> dict[tuple[str, frozenset[str]], float]:
    """Samples by their name and the values of their labels."""
    text = read(engine, lambda session: metrics.render(views.status(session, 50.0), tallies.look(session)))
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_happened_is_counted_by_its_labels(engine: Engine) -> None:
    transact(engine, happened)
    found = scraped(engine)
    expected = {
        ("learnd_cycle_seconds_count", ("bot", "lora", "settled")): 2,
        ("learnd_cycle_seconds_sum", ("bot", "lora", "settled")): 40,
        ("learnd_job_seconds_total", ("bot", "lora", "settled")): 8,
        ("learnd_cycle_running", ("bot", "lora", "candidate")): 1,
        ("learnd_verdicts_total", ("bot", "safety", "fail")): 1,
        ("learnd_decisions_total", ("bot", "Train", "settled")): 1,
        ("learnd_decisions_total", ("bot", "Train", "open")): 1,
        ("learnd_waiting", ("gaps",)): 1,
        ("learnd_waiting", ("erasures",)): 1,
        ("learnd_waiting", ("dead_letters",)): 0,
        ("learnd_audit_entries_total", ()): 1,
        ("learnd_lease_token", ()): 4,
        ("learnd_phase", ("bot", "", "training")): 1,
        ("learnd_phase", ("bot", "", "idle")): 0,
    }
    assert {(name, labels): found.get((name, frozenset(labels))) for name, labels in expected} == expected


def test_an_empty_database_is_scraped_too(engine: Engine) -> None:
    found = scraped(engine)
    assert found["learnd_audit_entries_total", frozenset()] == 0
    assert found["learnd_up", frozenset()] == 0
