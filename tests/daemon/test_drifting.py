"""The drift job reads two windows, compares both kinds, leaves its report; and reports of two kinds become one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from daemon import codec, drifting, schema
from daemon.jobs import Job
from feedback import db, sketch, windows
from feedback.records import question
from feedback.tables import Record
from feedback.topics import topic
from policies.errors import Misconfigured, Refused
from policies.model import DriftColumn, DriftReport, Questions

DRIFTED = DriftReport(
    "psi",
    True,
    True,
    "inputs",
    "inputs drifted in x",
    (DriftColumn("x", "psi", 0.5, 0.2, True, 300, 120),),
    (0, 9),
    (9, 20),
)
RATING = DriftColumn("rating", "rate_difference", 0.0, -0.05, False, 90, 80)
STEADY = DriftReport("psi", True, False, "", "outcomes as before", (RATING,), (2, 9), (11, 22))


@pytest.fixture
def url(tmp_path: Path) -> str:
    """300 questions about cards, rated well, then 300 about loans, rated badly."""
    url = f"sqlite:///{tmp_path}/learnd.db"
    engine = db.connect(url)
    schema.migrate(engine)
    seen = []
    with Session(engine) as session, session.begin():
        for seq in range(1, 601):
            text, rating = (f"my card {seq}?", 1.0) if seq <= 300 else (f"overdraft {seq}?", -1.0)
            row = Record(
                seq=seq, deployment="bot", id=str(seq), kind="feedback", time=0.0, ingested=0.0, fold="train",
                rating=rating, content_hash="", commitment="", features={"latency": float(seq % 7 + 1)}, source="s",
                tenant="acme" if seq % 3 else "zeta",
                body={"messages": [{"role": "user", "content": text}], "response": "yes"},
            )  # fmt: skip
            session.add(row)
            columns = sketch.columns(row.features, question(row.body["messages"]), "yes", rating)
            seen.append(
                sketch.Observation("bot", seq, "feedback", columns, tenant=row.tenant, slices=("tenant", "topic"))
            )
        sketch.add(session, seen)
    engine.dispose()
    return url


def job(url: str, folder: Path, **changed: Any) -> Job:
    inputs = {
        "database": url, "deployment": "bot", "detector": "psi", "options": {"ignore": []}, "reference": [0, 300],
        "current": [300, 600], "kinds": ["inputs", "outcomes"],
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    return Job("k", "drift", inputs | changed, 1, 0.0, folder)


def test_the_job_finds_what_drifted_and_leaves_its_report(url: str, tmp_path: Path) -> None:
    result = drifting.run(job(url, tmp_path / "job"))
    report = codec.drift_from_json(result)
    assert (report.judged, report.drifted, report.kind) == (True, True, "both")
    assert {column.column for column in report.columns if column.drifted} >= {"topic", "rating"}
    assert not next(column for column in report.columns if column.column == "latency").drifted
    assert report.files == (str(tmp_path / "job" / "report.json"),)
    assert json.loads(Path(report.files[0]).read_bytes()) == result


SLICE = {"kind": "inputs", "slice": "tenant=zeta", "reference": [0, 300], "current": [300, 600]}


def test_a_slice_is_compared_by_its_own_rows_and_named(url: str, tmp_path: Path) -> None:
    report = codec.drift_from_json(drifting.run(job(url, tmp_path / "job", kinds=["inputs"], slices=[SLICE])))
    mine = [column for column in report.columns if column.slice]
    assert "topic[tenant=zeta]" in {column.column for column in mine if column.drifted}
    assert {column.reference_n for column in mine} == {99}
    assert report.slices == ("tenant=zeta",)


@pytest.mark.slow
def test_evidently_reports_on_a_slice_in_a_folder_of_its_own(url: str, tmp_path: Path) -> None:
    word = {**SLICE, "slice": "topic=" + topic("my card 1?"), "current": [0, 300]}
    given = job(url, tmp_path / "job", detector="columns", options={}, kinds=["inputs"], slices=[SLICE, word])
    report = codec.drift_from_json(drifting.run(given))
    columns = {column.column: column for column in report.columns}
    assert columns["topic[tenant=zeta]"].drifted
    assert columns["topic[tenant=zeta]"].current_n == 100
    assert not columns[f"latency[{word['slice']}]"].drifted
    assert f"topic[{word['slice']}]" not in columns  # what tells the slice says nothing within it
    assert "tenant=zeta: inputs drifted in " in report.reason
    assert (tmp_path / "job" / "slice1" / "inputs.html").is_file()


def test_a_frozen_reference_does_as_well_as_its_rows(url: str, tmp_path: Path) -> None:
    engine = db.connect(url)
    with Session(engine) as session:
        frozen = {
            kind: windows.aggregates(windows.window(session, "bot", kind, 0, 300)) for kind in ("inputs", "outcomes")
        }
    engine.dispose()
    assert drifting.run(job(url, tmp_path / "job", reference=frozen)) == drifting.run(job(url, tmp_path / "job"))


def test_a_window_compared_with_itself_has_not_drifted(url: str, tmp_path: Path) -> None:
    report = codec.drift_from_json(drifting.run(job(url, tmp_path / "job", current=[0, 300])))
    assert (report.judged, report.drifted, report.kind) == (True, False, "")


@pytest.mark.slow
def test_evidently_runs_in_the_job_and_its_files_are_named(url: str, tmp_path: Path) -> None:
    report = codec.drift_from_json(drifting.run(job(url, tmp_path / "job", detector="columns", options={})))
    assert report.kind == "both"
    assert sorted(Path(name).name for name in report.files) == [
        "inputs.html", "inputs.json", "outcomes.html", "outcomes.json", "report.json",
    ]  # fmt: skip
    assert all(Path(name).is_file() for name in report.files)


def test_the_job_changes_nothing_in_an_unmigrated_database(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="empty"):
        drifting.run(job(f"sqlite:///{tmp_path}/new.db", tmp_path / "job"))


def test_merged_reports_say_where_it_drifted_and_cover_both_windows() -> None:
    merged = drifting.merge({"inputs": DRIFTED, "outcomes": STEADY}, at=7.0)
    assert (merged.judged, merged.drifted, merged.kind, merged.at) == (True, True, "inputs", 7.0)
    assert (merged.reason, merged.current, merged.reference) == ("inputs drifted in x", (9, 22), (0, 9))
    assert [column.column for column in merged.columns] == ["x", "rating"]
    bad = replace(STEADY, drifted=True, kind="outcomes", columns=(replace(RATING, drifted=True),))
    assert drifting.merge({"inputs": DRIFTED, "outcomes": bad}).kind == "both"


def test_what_a_look_told_of_questions_stays_when_another_detectors_report_joins_it() -> None:
    told = replace(STEADY, questions=Questions(310, 0.0, 0.4, 0.3, 0.5))
    assert drifting.merge({"cheap": told, "meaning": DRIFTED}).questions == told.questions


def test_the_policys_minimum_takes_back_what_too_few_values_said() -> None:
    merged = drifting.merge({"inputs": DRIFTED, "outcomes": STEADY}, minimum=100)
    assert (merged.drifted, merged.columns[1].drifted) == (True, False)
    few = drifting.merge({"inputs": DRIFTED, "outcomes": STEADY}, minimum=200)
    assert (few.judged, few.drifted, few.kind, few.columns[0].drifted) == (False, False, "", False)
    assert "the policy asks for 200" in few.columns[0].note


def test_merging_nothing_is_refused() -> None:
    with pytest.raises(Refused):
        drifting.merge({})
