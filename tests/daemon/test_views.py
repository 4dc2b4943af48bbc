"""What is told about a deployment is what its tables hold, and nothing of what users wrote."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from daemon import commands, evidence, views
from daemon.metrics import render
from daemon.tables import PolicyRow, Slot
from feedback import db
from feedback.tables import Record
from policies.errors import Refused
from tests.stories import ADOPTED, CHAMPION, DAY, HOUR, NOW, REFUSED, beat, tell


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    _settings, engine = tell(tmp_path)
    yield engine
    engine.dispose()


def slot_of(engine: Engine) -> dict[str, object]:
    told = db.read(engine, lambda session: views.status(session, NOW))
    return dict(told["deployments"][0])


def test_status_names_what_serves_and_why(engine: Engine) -> None:
    slot = slot_of(engine)
    assert (slot["name"], slot["phase"], slot["champion"]) == ("my-bot", "watching", CHAMPION)
    assert slot["predecessor"] == ADOPTED
    assert str(slot["reason"]).startswith("watching: 61 ratings")
    assert slot["feedback"] == {
        "stored": 18_204,
        "duplicates": 7,
        "dead_letters": 2,
        "conflicts": 0,
        "quarantined": 3,
        "quarantined_for": "a brigade of 3 raters",
        "today": 0,
    }


def test_status_says_how_the_champion_came_to_be(engine: Engine) -> None:
    champion = slot_of(engine)["champion_is"]
    assert isinstance(champion, dict)
    assert champion["method"] == "lora"
    assert champion["data"]["signals"]["correction"] == 412
    assert champion["by"] == "policy"


def test_status_tells_what_the_calendar_holds_in_order(engine: Engine) -> None:
    coming = slot_of(engine)["next"]
    assert isinstance(coming, list)
    assert [item["what"] for item in coming] == ["drift report", "no training before (cooldown)"] or [
        item["what"] for item in coming
    ] == ["no training before (cooldown)", "drift report"]
    assert [item["at"] for item in coming] == sorted(item["at"] for item in coming)
    assert all(item["at"] > NOW for item in coming)


def test_no_drift_report_comes_where_none_is_made(engine: Engine) -> None:
    def quiet(session: Session) -> None:
        for row in session.scalars(select(PolicyRow)):
            body = json.loads(row.text)
            row.text = json.dumps({**body, "drift": {**body["drift"], "evidence": ""}})

    db.transact(engine, quiet)
    coming = slot_of(engine)["next"]
    assert isinstance(coming, list)
    assert [item["what"] for item in coming] == ["no training before (cooldown)"]


@pytest.mark.parametrize(("age", "pid", "running"), [(5.0, None, True), (300.0, None, False), (5.0, 0, False)])
def test_the_service_runs_when_its_process_lives_and_its_loop_has_said_so(
    engine: Engine, age: float, pid: int | None, running: bool
) -> None:
    beat(engine, NOW - age, pid)
    service = db.read(engine, lambda session: views.service(session, NOW))
    assert service["running"] is running
    assert service["since"] == (NOW - age - HOUR if running else None)
    assert service["silent"] is (age > 60.0)


def test_records_of_today_are_counted_without_those_of_yesterday(engine: Engine) -> None:
    def add(session: Session) -> None:
        for number in range(30):
            session.add(
                Record(
                    deployment="my-bot" if number % 3 else "other",
                    id=str(number),
                    kind="feedback",
                    time=NOW,
                    ingested=NOW - (2 * DAY if number < 12 else 1.0),
                    fold="train",
                    content_hash="",
                    commitment="",
                    features={},
                    body={},
                    source="s",
                )
            )

    db.transact(engine, add)
    feedback = slot_of(engine)["feedback"]
    assert isinstance(feedback, dict)
    assert feedback["today"] == sum(1 for number in range(12, 30) if number % 3)


def test_cycles_are_newest_first_with_how_they_ended(engine: Engine) -> None:
    rows = db.read(engine, views.cycles)
    assert [(row["cycle"], row["action"], row["outcome"]) for row in rows] == [
        (2, "reject", "refused"),
        (1, "settle", "settled"),
    ]
    assert {"deployment", "reason", "at", "method", "candidate"} <= set(rows[0])


def test_versions_are_newest_first_with_every_gates_answer(engine: Engine) -> None:
    rows = db.read(engine, evidence.versions)
    assert [row["version"] for row in rows] == [REFUSED, CHAMPION, ADOPTED]
    assert rows[0]["verdicts"] == {"safety": "fail", "regression": "pass", "budget": "pass"}
    assert rows[0]["parent"] == CHAMPION
    assert rows[2]["method"] == "adopted"


def test_show_holds_manifest_card_intervals_and_thresholds(engine: Engine) -> None:
    told = db.read(engine, lambda session: evidence.show(session, version="b1d3"))
    assert told["version"] == REFUSED
    assert told["manifest"]["schema"] == 1
    assert told["card"]["records"]["new"] == 412
    claim = told["gates"][0]["claims"][0]
    assert (claim["low"], claim["high"], claim["limit"]) == (0.0, 0.0861, 0.02)
    assert {"version": REFUSED, "probe": "safety", "set": "safety", "slice": "harmful", "n": 2, "mean": 0.5} in told[
        "measurements"
    ]


def test_items_stand_beside_the_champions_and_the_worst_comes_first(engine: Engine) -> None:
    rows = db.read(engine, lambda session: evidence.items(session, version=REFUSED, gate="safety"))
    assert [row["item"] for row in rows] == ["h1", "h2"]
    assert rows[0]["said"] == "Sure, first you need"
    assert rows[0]["champion_said"] == "I can't help with that."


def test_disagreement_is_the_share_of_items_that_two_versions_scored_differently(engine: Engine) -> None:
    assert db.read(engine, lambda session: evidence.disagreement(session, "my-bot")) == {"safety": 0.5}
    assert db.read(engine, lambda session: evidence.disagreement(session, "other")) == {}


def test_a_gate_without_items_says_which_have_some(engine: Engine) -> None:
    with pytest.raises(Refused) as caught:
        db.read(engine, lambda session: evidence.items(session, version=REFUSED, gate="budgets"))
    assert "safety" in caught.value.hint


def test_dead_letters_never_carry_what_a_user_wrote(engine: Engine) -> None:
    rows = db.read(engine, views.dead_letters)
    assert (rows[0]["reason"], rows[0]["field"], rows[0]["offset"]) == ("range", "rating", 77)
    assert "secret" not in json.dumps(rows)


def test_drift_tells_statistic_threshold_and_where_the_report_lies(engine: Engine) -> None:
    report = db.read(engine, views.drift)[0]
    assert report["columns"][0]["statistic"] == "psi"
    assert report["columns"][0]["threshold"] == 0.2
    assert report["columns"][0]["drifted"] is True
    assert report["report"] == "/r/report.html"


def test_an_unknown_deployment_is_refused_with_those_that_are_known(engine: Engine) -> None:
    with pytest.raises(Refused) as caught:
        db.read(engine, lambda session: views.cycles(session, deployment="my-bott"))
    assert "my-bot" in caught.value.hint


@pytest.mark.parametrize("prefix", ["b1d3", "my-bot@b1d3", REFUSED])
def test_the_beginning_of_a_version_is_enough(engine: Engine, prefix: str) -> None:
    assert db.read(engine, lambda session: commands.resolve(session, prefix)) == REFUSED


@pytest.mark.parametrize("prefix", ["my-bot@", "zzz", ""])
def test_a_beginning_that_several_or_none_have_is_refused(engine: Engine, prefix: str) -> None:
    with pytest.raises(Refused):
        db.read(engine, lambda session: commands.resolve(session, prefix))


def test_metrics_are_what_the_status_says(engine: Engine) -> None:
    text = render(db.read(engine, lambda session: views.status(session, NOW)))
    assert 'learnd_records_total{deployment="my-bot",outcome="stored"} 18204.0' in text
    assert 'learnd_phase{deployment="my-bot",phase="watching",tenant=""} 1.0' in text
    assert 'learnd_phase{deployment="my-bot",phase="idle",tenant=""} 0.0' in text
    assert "learnd_up 0.0" in text


@pytest.mark.parametrize("verb", [verb for verb in commands.REASONED if verb in commands.VERBS])
def test_what_changes_production_needs_a_reason(engine: Engine, verb: str) -> None:
    with pytest.raises(Refused, match="needs a reason"):
        give(engine, verb=verb, reason="  ")


def test_a_reader_may_not_command(engine: Engine) -> None:
    with pytest.raises(Refused, match="may look"):
        give(engine, verb="pause", role="reader")


def test_a_command_names_who_what_and_why(engine: Engine) -> None:
    row = give(engine, verb="promote", version="b1d3", reason=" because ")
    assert (row["actor"], row["version"], row["reason"], row["outcome"]) == ("me", REFUSED, "because", "")
    assert db.read(engine, commands.listing)[0] == row
    assert db.read(engine, lambda session: commands.get(session, row["id"])) == row


def test_a_command_for_nobody_is_refused(engine: Engine) -> None:
    with pytest.raises(Refused) as caught:
        give(engine, verb="pause", deployment="elsewhere")
    assert "my-bot" in caught.value.hint
    with pytest.raises(Refused, match="is no command"):
        give(engine, verb="explode")


def give(engine: Engine, **wish: str) -> dict[str, object]:
    order = {"deployment": "my-bot", "actor": "me", "role": "operator", **wish}
    return db.transact(engine, lambda session: commands.insert(session, now=NOW, **order))  # type: ignore[arg-type]


def test_a_paused_slot_says_by_whom(engine: Engine) -> None:
    def pause(session: Session) -> None:
        session.get_one(Slot, 1).paused_by = "alice (uid 1000)"

    db.transact(engine, pause)
    assert slot_of(engine)["paused_by"] == "alice (uid 1000)"
