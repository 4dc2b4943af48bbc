"""learnctl as a person and as a script meets it: what it says, what it answers, and how it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from typer.testing import CliRunner, Result

from daemon import api, codec, ctl, peers
from daemon.clock import SystemClock
from daemon.config import Settings, load
from daemon.ctl import render
from daemon.tables import Baseline, CommandRow, DriftRow
from feedback import db, sketch, windows
from feedback.tables import Record
from policies.model import DriftColumn, DriftReport, Questions
from tests.feedback.support import sketched
from tests.stories import CHAMPION, NOW, REFUSED, SIZED, beat, begin, tell

runner = CliRunner()


@pytest.fixture
def story(tmp_path: Path) -> Iterator[tuple[Settings, Engine]]:
    now = SystemClock().now()
    settings, engine = tell(tmp_path, now)
    beat(engine, now)
    yield settings, engine
    engine.dispose()


def ctl_of(settings: Settings, *arguments: str) -> Result:
    return runner.invoke(ctl.app, ["--config", str(settings.path), *arguments])


def told(settings: Settings, *arguments: str) -> Any:
    done = ctl_of(settings, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_status_reads_as_a_person_would_tell_it(story: tuple[Settings, Engine]) -> None:
    lines = ctl_of(story[0], "status").stdout.splitlines()
    assert lines[0].startswith("learnd runs since ")
    assert lines[2].split() == ["my-bot", "watching", "2", "h", "of", "at", "least", "6", "h"]
    text = "\n".join(lines)
    assert f"champion  {CHAMPION}   LoRA on 412 corrections and 30 others, promoted " in text
    assert "by policy (approve)" in text
    assert "ready to come back: learnctl rollback my-bot" in text
    assert "18,204 stored · 0 today · 7 duplicates · 2 dead letters · 3 in quarantine (a brigade of 3 raters)" in text
    assert "drift     length drifted, since" in text
    assert "why       watching: 61 ratings of the new version, 92 % good; 140 more decide" in text
    assert "next      " in text
    assert lines[-1] == f"why it was refused: learnctl show {REFUSED}"


def test_status_tells_a_service_that_can_not_write_from_one_that_does_not_run(story: tuple[Settings, Engine]) -> None:
    for pid, said in ((None, "has written nothing since"), (0, "learnd is not running; it last spoke")):
        beat(story[1], SystemClock().now() - 300.0, pid)
        assert said in ctl_of(story[0], "status").stdout.splitlines()[0]


def test_status_as_json_holds_what_scripts_need(story: tuple[Settings, Engine]) -> None:
    status = told(story[0], "status")
    assert set(status["service"]) >= {"running", "since"}
    assert status["service"]["running"] is True
    slot = status["deployments"][0]
    assert {"name", "phase", "champion", "candidate", "reason", "feedback"} <= set(slot)
    assert {"stored", "duplicates", "dead_letters", "quarantined"} <= set(slot["feedback"])


def test_show_says_who_refused_and_draws_the_interval(story: tuple[Settings, Engine]) -> None:
    lines = ctl_of(story[0], "show", "b1d3").stdout.splitlines()
    assert lines[0].startswith(f"{REFUSED}   refused by safety, ")
    assert "LoRA on 412 corrections and 30 others · window 88,101-90,311 (412 new, 400 replay)" in lines[1]
    safety = next(line for line in lines if line.split()[:1] == ["safety"])
    assert "fail" in safety
    assert "complied with 7 of 150 harmful prompts" in safety
    assert {"├", "┤", "●", "┃"} <= set(safety)
    assert "150 items" in safety
    assert "  1 item scored otherwise than the champion's, 1 worse; the most changed:" in lines
    changed = next(line for line in lines if line.startswith("    safety h1 (harmful)"))
    assert changed.endswith('1 → 0     "I can\'t help with that." → "Sure, first you need"')
    assert lines[-1] == f"what it said: learnctl show {REFUSED} --items safety"


def test_show_says_how_an_adapter_began_and_why_it_is_as_large_as_it_is(story: tuple[Settings, Engine]) -> None:
    lines = ctl_of(story[0], "show", "3f9c").stdout.splitlines()
    assert "  begun    the champion has no adapter" in lines
    assert f"  size     {SIZED}" in lines


def test_a_base_and_an_adapter_are_told_apart_and_the_adapter_names_its_base(story: tuple[Settings, Engine]) -> None:
    settings, _ = story
    adopted, adapter = (
        next(one for one in told(settings, "versions") if one["kind"] == kind) for kind in ("base", "adapter")
    )
    assert (adopted["base"], adapter["base"]) == (None, adopted["version"])
    assert "  kind     base: full weights, no adapter on them" in ctl_of(settings, "show", adopted["version"]).stdout
    line = f"  kind     adapter of {adopted['version']}, depth {adapter['depth']}"
    assert line in ctl_of(settings, "show", adapter["version"]).stdout.splitlines()
    assert f"adapter, depth {adapter['depth']}" in ctl_of(settings, "versions").stdout


def test_show_draws_every_interval_and_tells_what_the_ledger_spent(story: tuple[Settings, Engine]) -> None:
    lines = ctl_of(story[0], "show", "b1d3").stdout.splitlines()
    anchor = next(line for line in lines if line.startswith("    margin against anchor: pass, +1.2 points"))
    assert {"├", "┤", "●", "┃", "┊"} <= set(anchor)
    assert anchor.endswith("320 items")
    assert "    candidate 3 on these items: 6.4 % of it spent" in lines


def test_show_items_holds_both_answers(story: tuple[Settings, Engine]) -> None:
    text = ctl_of(story[0], "show", "b1d3", "--items", "safety").stdout
    assert "Sure, first you need" in text
    assert "the same" in text
    rows = told(story[0], "show", "b1d3", "--items", "safety")
    assert rows[0]["champion_said"] == "I can't help with that."


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ("cycles", {"cycle", "deployment", "action", "reason", "outcome", "at"}),
        ("versions", {"version", "kind", "base", "depth", "method", "parent", "state", "created", "data", "verdicts"}),
        ("dead-letters", {"reason", "field", "source", "offset", "at"}),
        ("drift", {"columns", "report", "detector"}),
        ("commands", {"id", "actor", "verb", "reason", "outcome"}),
    ],
)
def test_a_list_is_a_table_for_people_and_json_for_scripts(
    story: tuple[Settings, Engine], command: str, fields: set[str]
) -> None:
    rows = told(story[0], command)
    assert rows
    assert fields <= set(rows[0])
    text = ctl_of(story[0], command).stdout
    assert "my-bot" in text or command == "dead-letters"
    assert "\x1b" not in text, "no colour codes where nobody's terminal is"


def test_drift_says_since_when_and_shows_records_of_the_new_kind(story: tuple[Settings, Engine]) -> None:
    settings, engine = story
    db.transact(engine, alarm)
    report = next(one for one in told(settings, "drift") if one["reason"] == "shop drifted")
    assert [(one["id"], one["prompt"], one["columns"]) for one in report["typical"]] == [
        ("r7", "where is\nmy loan 7?", {"shop": "south"}), ("r6", "where is\nmy loan 6?", {"shop": "south"}),
    ]  # fmt: skip
    assert (report["columns"][0]["since"], report["columns"][0]["since_at"]) == (6, 1_780_000_006.0)
    text = ctl_of(settings, "drift").stdout
    since = render.when(1_780_000_006.0, SystemClock().now())
    assert ["shop", "chi2_p", "0.001", "0.01", "drifted", *since.split(), "5", "2"] in map(str.split, text.splitlines())
    assert "language[tenant=acme]" in text
    assert "questions: about 31,204 different ones, 41 % [32, 50] of them known to the reference" in text
    assert report["questions"] == {"distinct": 31_204, "error": 690.0, "known": 0.412, "low": 0.321, "high": 0.497}
    assert "one by one: tenant=acme, tenant=zeta" in text
    assert [column["slice"] for column in report["columns"]] == ["", "tenant=acme"]
    assert "typical now: r7, " in text
    assert "'where is my loan 7?' (shop south)" in text


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (Questions(), "questions: unknown, they were not kept for all of these records"),
        (Questions(310), "questions: 310 different ones; unknown how many of them the reference had"),
        (Questions(310, 0.0, 0.5, 0.5, 0.5), "questions: 310 different ones, 50 % of them known to the reference"),
    ],
)
def test_drift_says_what_is_unknown_of_the_questions(
    story: tuple[Settings, Engine], asked: Questions, line: str
) -> None:
    report = codec.drift_to_json(DriftReport("psi", True, False, "", "inputs as before", questions=asked))
    row = DriftRow(slot=1, detector="psi", drifted=False, report=report, at=NOW)
    db.transact(story[1], lambda session: session.add(row))
    assert f"  {line}\n" in ctl_of(story[0], "drift").stdout


def alarm(session: Session) -> None:
    """Records 1 to 5 from the shop north, 6 and 7 from the south, a baseline of the first and a look at the last."""
    observed = []
    for seq in range(1, 8):
        row = Record(
            seq=seq, deployment="my-bot", id=f"r{seq}", kind="feedback", time=0.0, ingested=1_780_000_000.0 + seq,
            fold="train", content_hash="", commitment="", features={"shop": "north" if seq < 6 else "south"}, source="s",
            body={"messages": [{"role": "user", "content": f"where is\nmy loan {seq}?"}]},
        )  # fmt: skip
        session.add(row)
        columns = sketch.columns(row.features, "where is my loan?", None, None)
        observed.append(sketch.Observation("my-bot", seq, "feedback", columns))
    session.flush()
    before = sketched([seen.columns for seen in observed[:5]])
    sketch.add(session, observed)
    session.add(
        Baseline(
            slot=1,
            kind="inputs",
            version=CHAMPION,
            first=0,
            last=5,
            aggregates=windows.aggregates(before),
            at=NOW - 300,
        )
    )
    column = DriftColumn("shop", "chi2_p", 0.001, 0.01, True, 5, 2, since=6)
    mine = DriftColumn("language[tenant=acme]", "chi2_p", 0.002, 0.01, True, 4, 2, since=6, slice="tenant=acme")
    told = ("psi", True, True, "inputs", "shop drifted", (column, mine), (0, 5), (0, 7))
    asked = Questions(31_204, 690.0, 0.412, 0.321, 0.497)
    report = DriftReport(*told, slices=("tenant=acme", "tenant=zeta"), questions=asked)
    session.add(DriftRow(slot=1, detector="psi", drifted=True, report=codec.drift_to_json(report), at=NOW))


def test_an_unknown_version_is_refused_with_the_newest_ones(story: tuple[Settings, Engine]) -> None:
    done = ctl_of(story[0], "show", "ffff")
    assert done.exit_code == 1
    assert REFUSED in done.stderr
    assert "hint:" in done.stderr


def test_without_a_database_it_says_how_to_get_one(tmp_path: Path) -> None:
    settings = begin(tmp_path)
    done = ctl_of(settings, "status")
    assert done.exit_code == 69
    assert "learnd run --config" in done.stderr
    assert not (tmp_path / "state").exists(), "looking makes nothing"


def test_a_broken_configuration_ends_with_78_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "learnd.toml").write_text("[servce]\n", encoding="utf-8")
    done = runner.invoke(ctl.app, ["--config", str(tmp_path / "learnd.toml"), "status"])
    assert done.exit_code == 78
    assert "did you mean service?" in done.stderr
    assert "Traceback" not in done.output


def test_the_configuration_may_come_from_the_environment(story: tuple[Settings, Engine]) -> None:
    done = runner.invoke(ctl.app, ["status", "--json"], env={"LEARND_CONFIG": str(story[0].path)})
    assert done.exit_code == 0


@pytest.mark.parametrize("arguments", [["fly"], ["show"], ["status", "--colour"], ["cycles", "--limit", "0"]])
def test_wrong_usage_ends_with_2(story: tuple[Settings, Engine], arguments: list[str]) -> None:
    assert ctl_of(story[0], *arguments).exit_code == 2


def test_writing_without_the_daemon_says_so_and_ends_with_69(story: tuple[Settings, Engine]) -> None:
    done = ctl_of(story[0], "pause", "my-bot")
    assert done.exit_code == 69
    assert "the daemon is not running" in done.stderr
    assert "systemctl start learnd" in done.stderr


def test_what_changes_production_asks_for_a_reason(story: tuple[Settings, Engine]) -> None:
    done = ctl_of(story[0], "rollback", "my-bot")
    assert done.exit_code == 2
    assert "--reason" in done.stderr


class Loop:
    """Stands where the loop stands: it is woken, and answers what was asked."""

    def __init__(self, engine: Engine, outcome: str, answer: str) -> None:
        self.engine, self.outcome, self.answer = engine, outcome, answer

    def wake(self) -> None:
        def close(session: Any) -> None:
            for row in session.scalars(select(CommandRow).where(CommandRow.outcome == "")):
                row.outcome, row.answer, row.ended = self.outcome, self.answer, NOW

        db.transact(self.engine, close)


@pytest.mark.parametrize(
    ("outcome", "answer", "code"), [("done", "rolled_back", 0), ("refused", "there is nothing to go back to", 1)]
)
@pytest.mark.slow
def test_wait_follows_a_command_to_its_outcome(
    story: tuple[Settings, Engine], outcome: str, answer: str, code: int
) -> None:
    settings, engine = story
    loop = Loop(engine, outcome, answer)
    control = api.serve(settings, engine, wake=loop.wake, now=SystemClock().now)
    try:
        done = ctl_of(settings, "rollback", "my-bot", "--reason", "complaints", "--wait", "--json")
    finally:
        control.stop()
    assert done.exit_code == code
    row = json.loads(done.stdout)
    assert (row["verb"], row["outcome"], row["answer"], row["reason"]) == ("rollback", outcome, answer, "complaints")
    assert row["actor"] == peers.actor_of(os.getuid())


def test_a_command_without_wait_says_where_its_outcome_will_be(story: tuple[Settings, Engine]) -> None:
    settings, engine = story
    control = api.serve(settings, engine, wake=lambda: None, now=SystemClock().now)
    try:
        done = ctl_of(settings, "pause", "my-bot", "--reason", "freeze")
        elsewhere = ctl_of(settings, "pause", "their-bot")
    finally:
        control.stop()
    assert done.exit_code == 0
    assert "taken as command" in done.stdout
    assert "--wait" in done.stdout
    assert elsewhere.exit_code == 1
    assert "my-bot" in elsewhere.stderr


def test_goldens_come_in_without_a_daemon_and_are_listed(tmp_path: Path) -> None:
    settings = begin(tmp_path)
    file = tmp_path / "goldens" / "goldens.jsonl"
    report = told(settings, "goldens", "import", str(file), "--name", "faq", "--role", "goldens")
    assert (report["name"], report["version"], report["items"], report["slices"]) == ("faq", "1", 8, {"shop": 8})
    assert report["hash"]
    row = told(settings, "goldens", "list")[0]
    assert (row["name"], row["current"], row["accepted_by"]) == ("faq", True, peers.actor_of(os.getuid()))
    assert told(settings, "audit", "verify")["entries"] == 1


def test_a_bad_golden_line_refuses_the_file_and_says_why(tmp_path: Path) -> None:
    settings = begin(tmp_path)
    file = tmp_path / "bad.jsonl"
    file.write_text(
        '{"id": "a", "prompt": "x", "check": {"kind": "exact", "value": "y"}}\n{"id": 3}\n', encoding="utf-8"
    )
    done = ctl_of(settings, "goldens", "import", str(file))
    assert done.exit_code == 1
    assert "line 2" in done.stdout
    assert told(settings, "goldens", "list") == []


def test_feedback_comes_in_without_a_daemon_each_record_once(tmp_path: Path) -> None:
    settings = begin(tmp_path)
    file = tmp_path / "old.jsonl"
    good = {"time": "2026-01-31T12:00:00Z", "deployment": "my-bot", "prompt": "when?", "response": "?", "rating": 1}
    lines = [json.dumps({"id": str(number), **good}) for number in (1, 2, 2)]
    file.write_text("\n".join([*lines, "no json", "", json.dumps({**good, "id": "4", "rating": 9})]), encoding="utf-8")
    report = told(settings, "feedback", "import", str(file))
    assert {name: report[name] for name in ("read", "stored", "duplicates", "dead_letters")} == {
        "read": 5,
        "stored": 2,
        "duplicates": 1,
        "dead_letters": 2,
    }
    letters = told(settings, "dead-letters")
    assert {letter["reason"] for letter in letters} == {"invalid_json", "range"}
    assert all(letter["source"] == "import/old.jsonl" for letter in letters)
    again = told(settings, "feedback", "import", str(file))
    assert (again["stored"], again["duplicates"], again["dead_letters"]) == (0, 3, 2)


def test_a_file_that_is_not_there_is_a_message(tmp_path: Path) -> None:
    settings = begin(tmp_path)
    for command in (("feedback", "import"), ("goldens", "import")):
        done = ctl_of(settings, *command, str(tmp_path / "none.jsonl"))
        assert done.exit_code == 1
        assert "can't be read" in done.stderr


def test_the_audit_log_is_verified_exported_and_an_edit_is_found(tmp_path: Path) -> None:
    settings = begin(tmp_path)
    told(settings, "goldens", "import", str(tmp_path / "goldens" / "goldens.jsonl"))
    copy = tmp_path / "audit.jsonl"
    assert told(settings, "audit", "export", str(copy))["entries"] == 1
    assert told(settings, "audit", "verify") == told(settings, "audit", "verify", str(copy))
    copy.write_bytes(copy.read_bytes().replace(b'"goldens_imported"', b'"goldens_imparted"'))
    done = ctl_of(settings, "audit", "verify", str(copy), "--json")
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    assert answer["error"]


def test_an_exported_log_is_verified_where_there_is_no_configuration(tmp_path: Path) -> None:
    settings = begin(tmp_path)
    told(settings, "goldens", "import", str(tmp_path / "goldens" / "goldens.jsonl"))
    told(settings, "audit", "export", str(tmp_path / "audit.jsonl"))
    done = runner.invoke(ctl.app, ["audit", "verify", str(tmp_path / "audit.jsonl")], env={"LEARND_CONFIG": None})
    assert done.exit_code == 0


def test_replay_of_an_empty_past_is_the_same(tmp_path: Path) -> None:
    settings = begin(tmp_path)
    told(settings, "goldens", "import", str(tmp_path / "goldens" / "goldens.jsonl"))
    answer = told(settings, "audit", "replay")
    assert (answer["decisions"], answer["same"], answer["different"]) == (0, 0, [])


def commands_of(group: Any, *above: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, *above, name)
        else:
            yield (*above, name)


def test_every_command_teaches_by_its_help_and_takes_json() -> None:
    import typer.main

    for command in commands_of(typer.main.get_command(ctl.app)):
        text = runner.invoke(ctl.app, [*command, "--help"]).stdout
        assert f"Example: learnctl {' '.join(command)}" in text or "Example: learnctl --config" in text, command
        assert "--json" in text, command


@pytest.mark.slow
def test_no_heavy_library_is_imported_to_look_at_the_status() -> None:
    heavy = "('torch', 'transformers', 'scipy', 'pandas', 'evidently', 'fastapi', 'kafka')"
    code = f"import sys, daemon.ctl; sys.exit(' '.join(m for m in {heavy} if m in sys.modules) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=Path(ctl.__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr


def test_an_unreadable_database_is_read_through_the_socket(story: tuple[Settings, Engine], tmp_path: Path) -> None:
    settings, engine = story
    control = api.serve(settings, engine, wake=lambda: None, now=SystemClock().now)
    try:
        door = ctl.reading.client.Door(replace(settings, database="sqlite:////proc/1/learnd.db"))
        assert door.see("status")["deployments"][0]["name"] == "my-bot"
    finally:
        control.stop()


@pytest.mark.parametrize(
    ("low", "high", "estimate", "limit"),
    [(0.0, 0.0861, 0.047, 0.02), (-0.004, 0.028, 0.012, -0.015), (0.1, 0.1, 0.1, 0.1), (-1.0, 1.0, None, None)],
)
def test_an_interval_is_drawn_in_the_order_of_its_numbers(
    low: float, high: float, estimate: float | None, limit: float | None
) -> None:
    line = render.interval(low, high, estimate, limit)
    assert len(line) == render.GLYPHS
    if estimate is not None and low < estimate < high:
        assert line.index("├") < line.index("●") < line.index("┤")
    if limit is not None and limit < low:
        assert line.index("┃") < line.index("├")


def test_what_is_not_finite_draws_nothing() -> None:
    assert render.interval(float("-inf"), 1.0, 0.0, 0.0) == ""
    assert render.interval(0.0, 0.0, 0.0, 0.0) == ""


def test_config_check_finds_nothing_in_what_init_wrote(tmp_path: Path) -> None:
    settings = begin(tmp_path)
    done = ctl_of(settings, "config", "check")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "nothing is wrong"


def test_config_check_ends_with_78_and_says_what_to_correct(tmp_path: Path) -> None:
    settings = begin(tmp_path)
    policy = settings.deployments["my-bot"].policy
    policy.write_text(policy.read_text(encoding="utf-8").replace("[gates.safety]", "[gates.saftey]"), encoding="utf-8")
    done = ctl_of(settings, "config", "check", "--json")
    assert done.exit_code == 78
    found = json.loads(done.stdout)
    assert found["ok"] is False
    wrong = [finding for finding in found["findings"] if finding["level"] == "error"]
    assert "gates.saftey" in wrong[0]["message"]
    assert "safety" in wrong[0]["hint"]
    assert load(settings.path, {}).deployments, "the settings themselves are fine"
