"""A look alarms over the champion's own drift, when it lasts, and says since when and with which records."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from daemon import baselines, looking, views
from daemon.tables import Baseline, DriftRow, Slot
from feedback import db, sketch, windows
from feedback.records import question
from feedback.tables import Record
from policies.policy import Drift
from tests import fresh

DAY = 86400.0
RULE = Drift(evidence="", evidence_schedule="", current=800, blocks=4, agree=3, minimum=200)
OLD, NEW = "bot@old", "bot@new"


def hashed(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@dataclass
class Place:
    """A deployment whose users ask and rate, and the daemon's look at it."""

    engine: Any
    rule: Drift = RULE
    now: float = 4 * DAY  # a Monday
    seq: int = 0
    seen: list[DriftRow] = field(default_factory=list)
    jobs: Any = None

    def mixed(self, acme: str, *, few: int = 6, tenant: str = "acme", **row: Any) -> None:
        """A day on which one tenant asks `few` of two hundred questions."""
        self.say(200 - few, tenant="zeta", **row)
        self.now -= DAY
        self.say(few, text=acme, tenant=tenant, **row)

    def say(self, n: int, text: str = "my card {n}?", rating: float = 1.0, version: str = OLD, **row: Any) -> None:
        """`n` rated questions a day, then the day is over."""
        observed, made, day = [], [], sketch.weekday(self.now)
        for _ in range(n):
            self.seq += 1
            asked = text.replace("{n}", f"{self.seq:05}")
            made.append(self._fields(asked, rating, version) | row)
            columns = sketch.columns(made[-1]["features"], question(made[-1]["body"]["messages"]), "yes", rating)
            tenant = made[-1].get("tenant", "")
            observed.append(
                sketch.Observation(
                    "bot", self.seq, "feedback", columns, day, version, tenant, self.rule.slices, hashed(asked)
                )
            )
        if made:
            with Session(self.engine) as session, session.begin():
                session.execute(insert(Record), made)
                sketch.add(session, observed)
        self.now += DAY

    def _fields(self, text: str, rating: float, version: str) -> dict[str, Any]:
        return {
            "seq": self.seq, "deployment": "bot", "id": f"r{self.seq}", "kind": "feedback", "time": 0.0,
            "ingested": self.now, "fold": "train", "rating": rating, "content_hash": "", "commitment": "",
            "model_version": version, "features": {"shop": "a"}, "source": "s",
            "body": {"messages": [{"role": "user", "content": text}], "response": "yes"},
        }  # fmt: skip

    def promote(self, version: str) -> None:
        with Session(self.engine) as session, session.begin():
            slot = session.get_one(Slot, 1)
            slot.champion, slot.promoted = version, self.now
            baselines.freeze_inputs(session, slot, version, self.rule.current, self.rule, self.now)

    def settle(self) -> None:
        with Session(self.engine) as session, session.begin():
            slot = session.get_one(Slot, 1)
            baselines.freeze_outcomes(session, slot, slot.champion, self.now)

    def look(self) -> DriftRow | None:
        """The row of this look, or None where none was due."""
        now = self.now
        context: Any = SimpleNamespace(
            engine=self.engine,
            clock=SimpleNamespace(now=lambda: now),
            policy=SimpleNamespace(drift=self.rule, hash=""),
            jobs=self.jobs,
            database=self.engine.url.render_as_string(hide_password=False),
        )
        looking.look(context, 1)
        with Session(self.engine) as session:
            rows = list(session.scalars(select(DriftRow).order_by(DriftRow.id)))
        fresh = rows[len(self.seen) :]
        self.seen = rows
        return fresh[-1] if fresh else None

    def drifted(self) -> set[str]:
        """The columns over which the look alarmed."""
        row = self.look()
        assert row is not None, "no look was due"
        return {column["column"] for column in row.report["columns"] if column["drifted"]}

    def baseline(self, kind: str) -> Baseline | None:
        with Session(self.engine) as session:
            return baselines.newest(session, 1, kind)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """One champion, OLD, a week of traffic, and its references."""
    engine = db.connect(f"sqlite:///{tmp_path}/learnd.db")
    fresh.migrate(engine)
    with Session(engine) as session, session.begin():
        session.add(Slot(id=1, deployment="bot", phase="idle", phase_since=0.0, champion=OLD, anchor=OLD))
    made = Place(engine)
    made.say(99)  # sequence numbers begin at 1: the first block of sketches holds 99 records
    for _ in range(6):
        made.say(100)
    made.settle()
    made.promote(OLD)
    yield made
    engine.dispose()


@pytest.mark.slow
def test_a_steady_month_never_alarms_and_is_looked_at_once_a_block(place: Place) -> None:
    looks = 0
    for _ in range(30):
        place.say(100)
        row = place.look()
        looks += row is not None
        assert row is None or not row.drifted
    assert looks == 15  # blocks of 200


def test_other_questions_are_found_with_their_beginning_which_later_looks_keep(place: Place) -> None:
    for _ in range(4):
        place.say(200)
        assert place.drifted() == set()
    begin = place.seq
    for _ in range(3):
        place.say(200, text="my loan {n}?")
        found = place.drifted()
    assert found == {"topic"}
    since = [next(c["since"] for c in row.report["columns"] if c["column"] == "topic") for row in place.seen[-1:]]
    place.say(200, text="my loan {n}?")
    assert place.drifted() == {"topic"}
    since.append(next(c["since"] for c in place.seen[-1].report["columns"] if c["column"] == "topic"))
    assert since[0] == since[1]
    assert abs(since[0] - begin) <= 200


def test_which_questions_are_new_is_told_and_never_alarms(place: Place) -> None:
    for text, repeats in (("my card {n}?", False), ("my card 00007?", True)):
        for _ in range(4):
            place.say(200, text=text)
            row = place.look()
            assert row is not None
            assert not row.drifted
        known = 1.0 if repeats else 0.0
        assert row.report["questions"] == {
            "distinct": 1 if repeats else 800, "error": 0.0, "known": known, "low": known, "high": known,
        }  # fmt: skip


def test_questions_are_unknown_against_a_reference_that_was_frozen_without_them(place: Place) -> None:
    with Session(place.engine) as session, session.begin():
        for row in session.scalars(select(Baseline)):
            row.aggregates = {name: value for name, value in row.aggregates.items() if name != "asked"}
    place.say(200)
    row = place.look()
    assert row is not None
    assert (row.report["questions"]["distinct"], row.report["questions"]["known"]) == (200, None)


def test_one_odd_block_does_not_alarm(place: Place) -> None:
    for text in ("my card {n}?", "my loan {n}?", "my card {n}?", "my card {n}?", "my card {n}?"):
        place.say(200, text=text)
        assert place.drifted() == set()


def test_ratings_of_another_version_never_alarm_over_the_champion(place: Place) -> None:
    place.promote(NEW)
    for _ in range(4):
        place.say(200, rating=-1.0, version=NEW)
        place.look()
    place.promote(OLD)  # rolled back: some still rate what is gone
    for _ in range(6):
        place.say(100, rating=-1.0, version=NEW)
        place.say(100, rating=1.0, version=OLD)
        row = place.look()
        assert row is None or not row.drifted, row.report["reason"]


def test_the_champions_own_ratings_do_alarm_among_better_ones_of_another_version(place: Place) -> None:
    found: set[str] = set()
    for _ in range(6):
        place.say(100, rating=1.0, version=NEW)
        place.say(150, rating=-1.0, version=OLD)
        row = place.look()
        found |= {c["column"] for c in row.report["columns"] if c["drifted"]} if row else set()
    assert found == {"rating"}


def test_a_version_that_has_not_settled_is_not_judged_by_its_predecessors_ratings(place: Place) -> None:
    place.promote(NEW)
    for _ in range(5):
        place.say(200, rating=-1.0, version=NEW)
        assert place.drifted() == set()
    place.settle()
    assert place.baseline("outcomes").aggregates["window"]["columns"]["rating"]  # type: ignore[union-attr]


def test_ratings_of_one_tenant_alarm_by_its_name(place: Place) -> None:
    for tenant in ("acme", "zeta") * 2:
        place.say(200, tenant=tenant)
    place.settle()
    place.promote(OLD)
    found: set[str] = set()
    for _ in range(5):
        place.say(150, tenant="acme")
        place.say(50, tenant="zeta", rating=-1.0)
        row = place.look()
        found |= {c["column"] for c in row.report["columns"] if c["drifted"]} if row else set()
    assert "rating[tenant=zeta]" in found
    assert "rating[tenant=acme]" not in found


def test_a_young_reference_grows_by_what_did_not_drift_and_stays_frozen_beside_it(place: Place) -> None:
    frozen = place.baseline("inputs")
    for _ in range(8):
        place.say(200)
        place.look()
    grown = place.baseline("inputs+")
    assert frozen is not None
    assert grown is not None
    assert place.baseline("inputs").last == frozen.last == 699  # type: ignore[union-attr]
    assert (grown.first, grown.last) == (frozen.first, place.seen[-1].report["current"][0])
    assert windows.thaw(grown.aggregates).n > windows.thaw(frozen.aggregates).n
    before = grown.last
    for _ in range(8):
        place.say(200, text="my loan {n}?")
        place.look()
    assert place.baseline("inputs+").last <= before + 400  # type: ignore[union-attr]


def test_a_reference_that_reaches_back_far_enough_does_not_grow(place: Place) -> None:
    place.rule = replace(RULE, reference_days=7.0)
    for _ in range(8):
        place.say(200)
        place.look()
    assert place.baseline("inputs+") is None


def test_what_is_promoted_on_begins_with_the_drift_that_it_answers(place: Place) -> None:
    for _ in range(2):
        place.say(200)
        place.look()
    begin = place.seq
    for _ in range(5):
        place.say(200, text="my loan {n}?")
        place.look()
    assert place.seen[-1].drifted
    place.promote(NEW)
    assert abs(place.baseline("inputs").aggregates["first"] - begin) <= 200  # type: ignore[union-attr]
    for _ in range(5):
        place.say(200, text="my loan {n}?", version=NEW)
        assert place.drifted() == set()


def test_an_alarm_is_told_with_typical_records_that_may_be_shown(place: Place) -> None:
    for _ in range(4):
        place.say(100)
        place.say(60, text="my loan {n}?")
        place.say(20, text="my loan judge {n}?", fold="judge")
        place.say(20, text="my loan held {n}?", state="quarantined")
        place.look()
    report = db.read(place.engine, views.drift)[0]
    topic = next(column for column in report["columns"] if column["column"] == "topic")
    assert topic["drifted"]
    assert topic["since_at"] == db.read(place.engine, lambda s: s.get_one(Record, topic["since"]).ingested)
    assert len(report["typical"]) == 4
    for record in report["typical"]:
        assert record["prompt"].startswith("my loan 0")
        assert not {"judge", "held"} & set(record["prompt"].split())
        assert record["prompt"] in str(db.read(place.engine, lambda s, i=record["seq"]: s.get_one(Record, i).body))
        assert set(record["columns"]) == {"topic"}
    assert db.read(place.engine, lambda session: views.drift(session, texts=False))[0]["typical"] == []


SMALL = replace(RULE, minimum=60)


def weeks_of_two_tenants(place: Place) -> None:
    """A reference that knows both tenants, and looks that did not alarm."""
    place.rule = SMALL
    for _ in range(12):
        place.mixed("my card {n}?")
    place.settle()
    place.promote(OLD)
    for _ in range(12):
        place.mixed("my card {n}?")
        assert place.drifted() == set()


@pytest.mark.slow
def test_other_questions_of_one_tenant_alarm_by_its_name_while_all_together_stay_as_they_were(place: Place) -> None:
    weeks_of_two_tenants(place)
    begin, found = place.seq, set()
    for _ in range(11):
        place.mixed("my loan {n}?")
        found |= place.drifted()
    assert found == {"topic[tenant=acme]"}
    report = place.seen[-1].report
    assert "tenant=acme" in report["slices"]
    assert report["reason"].startswith("inputs of tenant=acme drifted in topic (chi2_p ")
    alarm = next(column for column in report["columns"] if column["slice"])
    assert abs(alarm["since"] - begin) <= 600  # three days: the blocks of a small slice are long
    told = db.read(place.engine, views.drift)[0]["typical"]
    assert {record["slice"] for record in told} == {"tenant=acme"}
    assert all(record["prompt"].startswith("my loan") for record in told)


@pytest.mark.slow
def test_ratings_of_one_small_tenant_alarm_by_its_name(place: Place) -> None:
    weeks_of_two_tenants(place)
    found: set[str] = set()
    for _ in range(11):
        place.say(194, tenant="zeta")
        place.now -= DAY
        place.say(6, tenant="acme", rating=-1.0)
        found |= place.drifted()
    assert "rating[tenant=acme]" in found
    assert not {"rating", "rating[tenant=zeta]"} & found


@pytest.mark.slow
def test_what_a_slice_was_promoted_on_begins_with_its_drift_and_the_rest_does_not(place: Place) -> None:
    weeks_of_two_tenants(place)
    begin = place.seq
    for _ in range(11):
        place.mixed("my loan {n}?")
        place.look()
    place.promote(NEW)
    frozen = windows.thaw(place.baseline("inputs").aggregates)  # type: ignore[union-attr]
    assert frozen.first < begin - 2000
    assert abs(frozen.slices["tenant=acme"].first - begin) <= 600
    for _ in range(8):
        place.mixed("my loan {n}?", version=NEW)
        assert place.drifted() == set()


@pytest.mark.slow
def test_a_tenant_that_came_later_gets_a_reference_of_its_own_and_then_alarms(place: Place) -> None:
    weeks_of_two_tenants(place)
    for _ in range(25):
        place.mixed("my card {n}?", tenant="newcomer")
        assert place.drifted() == set()
    assert "tenant=newcomer" in place.seen[-1].report["slices"]
    found: set[str] = set()
    for _ in range(11):
        place.mixed("my loan {n}?", tenant="newcomer")
        found |= place.drifted()
    assert found == {"topic[tenant=newcomer]"}


def test_a_slice_below_the_minimum_is_not_judged(place: Place) -> None:
    place.rule = RULE  # 200 of a slice
    for _ in range(8):
        place.mixed("my card {n}?")
    place.promote(OLD)
    for _ in range(8):
        place.mixed("my loan {n}?")
        assert place.drifted() == set()
        assert "tenant=acme" not in place.seen[-1].report["slices"]


@pytest.mark.slow
def test_only_the_slices_of_the_policy_are_looked_at(place: Place) -> None:
    place.rule = replace(SMALL, slices=("shop",))
    found: set[str] = set()
    for day in range(26):
        if day == 12:
            place.promote(OLD)
        place.say(194, tenant="zeta")
        place.now -= DAY
        place.say(6, text="my card {n}?" if day < 12 else "my loan {n}?", tenant="acme", features={"shop": "b"})
        row = place.look()
        found |= {column["column"] for column in row.report["columns"] if column["drifted"]} if row else set()
    assert found == {"topic[shop=b]"}
