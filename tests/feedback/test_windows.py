"""A window is the same however it is cut into blocks and edges, costs blocks and not rows, and freezes losslessly."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from daemon import schema
from feedback import sketch, windows
from feedback.db import connect
from feedback.records import question
from feedback.tables import Record
from feedback.topics import topic
from policies.errors import Corrupt, Refused

WORDS = ("invoice", "parcel", "password", "refund", "address", "voucher", "delivery", "receipt", "warranty")
ROWS = 4321


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "sqlite":
        made = connect(f"sqlite:///{tmp_path_factory.mktemp('windows')}/learnd.db")
    else:
        made = connect(request.getfixturevalue("postgres_server").database())
    schema.migrate(made)
    with Session(made) as session, session.begin():
        fill(session, random.Random(1))
    yield made
    made.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine.execution_options(learnd_reads=True)) as opened:
        yield opened


def fill(session: Session, draw: random.Random) -> None:
    """Every fourth record of `bot` is feedback, every ninth of all belongs to `other`, which sends no exposures."""
    seen = []
    for seq in range(1, ROWS + 1):
        deployment = "other" if seq % 9 == 0 else "bot"
        kind = "feedback" if seq % 4 == 0 or deployment == "other" else "exposure"
        row = Record(
            seq=seq, deployment=deployment, id=str(seq), kind=kind, time=0.0, ingested=0.0, fold="train",
            rating=draw.choice([1.0, -1.0, 0.0]) if kind == "feedback" else None, content_hash="", commitment="",
            features={"latency": draw.lognormvariate(0, 1), "device": draw.choice(["phone", "desk"])}, source="s",
            body={"messages": [{"role": "user", "content": f"my {draw.choice(WORDS)} number {seq}"}], "response": "so"},
        )  # fmt: skip
        session.add(row)
        text = question(row.body["messages"])
        seen.append(sketch.Observation(deployment, seq, kind, sketch.columns(row.features, text, "so", row.rating)))
    sketch.add(session, seen)


def plain(window: windows.Window) -> dict[str, Any]:
    """What was counted, with the sums rounded: floats add up differently in another order."""
    return {name: {key: round(value, 6) for key, value in counts.items()} for name, counts in window.counts.items()}


@pytest.fixture(scope="module")
def rows(engine: Engine) -> list[tuple[int, dict[str, Any]]]:
    """The columns of every exposure of `bot`, by its sequence number."""
    with Session(engine.execution_options(learnd_reads=True)) as session:
        found = session.query(Record).filter_by(deployment="bot", kind="exposure").order_by(Record.seq)
        return [(r.seq, sketch.columns(r.features, question(r.body["messages"]), "so", r.rating)) for r in found]


def row_by_row(rows: list[tuple[int, dict[str, Any]]], first: int, last: int) -> dict[str, dict[str, Any]]:
    counts: dict[str, dict[str, Any]] = {}
    for seq, columns in rows:
        for name, value in columns.items() if first < seq <= last else ():
            sketch.count(counts.setdefault(name, {"n": 0}), name, value)
    return {name: {key: round(value, 6) for key, value in c.items()} for name, c in counts.items()}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(st.integers(0, ROWS + 900), st.integers(0, ROWS + 900)).map(sorted))
def test_blocks_and_edges_together_count_what_the_rows_are(session: Session, rows: Any, span: list[int]) -> None:
    first, last = span
    window = windows.window(session, "bot", "inputs", first, last, sample=0)
    assert plain(window) == row_by_row(rows, first, last)


@pytest.mark.parametrize("span", [(0, 0), (0, 999), (0, 1000), (999, 1999), (1000, 2000), (999, 1000), (998, 999)])
def test_the_corners_of_blocks_are_counted_once(session: Session, rows: Any, span: tuple[int, int]) -> None:
    window = windows.window(session, "bot", "inputs", *span, sample=0)
    assert plain(window) == row_by_row(rows, *span)


def test_a_wide_window_reads_only_the_rows_of_its_edges(engine: Engine) -> None:
    with Session(engine.execution_options(learnd_reads=True)) as session:
        loaded: list[Record] = []
        event.listen(session, "loaded_as_persistent", lambda _session, row: loaded.append(row))
        windows.window(session, "bot", "inputs", 990, 4010, sample=0)
    assert {row.seq for row in loaded if row.seq in range(1000, 4000)} == set()
    assert 0 < len(loaded) < 30


def test_inputs_are_exposures_or_feedback_where_none_are_sent_and_outcomes_are_ratings(session: Session) -> None:
    assert windows.window(session, "bot", "inputs", 0, ROWS, sample=0).records == "exposure"
    other = windows.window(session, "other", "inputs", 0, ROWS, sample=0)
    assert (other.records, other.n) == ("feedback", ROWS // 9)
    assert "rating" not in other.columns
    outcomes = windows.window(session, "bot", "outcomes", 0, ROWS, sample=0)
    rating = outcomes.columns["rating"]
    assert set(outcomes.columns) == {"rating"}
    assert rating.good + rating.neutral + rating.bad == rating.n == outcomes.n


def test_numbers_and_categories_are_told_apart(session: Session) -> None:
    columns = windows.window(session, "bot", "inputs", 0, ROWS, sample=0).columns
    assert {name for name, column in columns.items() if column.numeric} == {
        "latency",
        "prompt_length",
        "response_length",
    }
    assert set(columns) >= {"device", "language", "topic"}


@pytest.mark.parametrize("n", [1, 7, 500, 1999])
@pytest.mark.parametrize("kind", ["inputs", "outcomes"])
def test_the_latest_window_holds_exactly_as_many_as_were_asked_for(session: Session, kind: str, n: int) -> None:
    first, last = windows.latest(session, "bot", kind, n)
    assert last == ROWS
    held = windows.window(session, "bot", kind, first, last, sample=0).n
    assert held == min(n, windows.window(session, "bot", kind, 0, ROWS, sample=0).n)


def test_the_latest_window_of_a_deployment_without_records_is_empty(session: Session) -> None:
    assert windows.latest(session, "nobody", "inputs", 10) == (ROWS, ROWS)
    assert windows.window(session, "nobody", "inputs", ROWS, ROWS).n == 0
    assert windows.latest(session, "other", "inputs", 10**6) == (0, ROWS)


def test_a_sample_is_drawn_by_its_seed_and_never_larger_than_asked(session: Session) -> None:
    first = windows.window(session, "bot", "inputs", 0, ROWS, sample=100, seed=1).sample
    assert len(first) == 100
    assert windows.window(session, "bot", "inputs", 0, ROWS, sample=100, seed=1).sample == first
    assert windows.window(session, "bot", "inputs", 0, ROWS, sample=100, seed=2).sample != first
    assert set(first[0]) == {"latency", "device", "prompt_length", "response_length", "language", "topic"}
    everything = windows.window(session, "bot", "inputs", 0, ROWS)
    assert len(everything.sample) == everything.n


def test_a_span_far_wider_than_the_sample_is_probed_and_still_fills_it(session: Session) -> None:
    assert len(windows.window(session, "bot", "inputs", 0, ROWS, sample=20).sample) == 20


def test_freezing_and_thawing_loses_nothing_but_the_sample(session: Session) -> None:
    window = windows.window(session, "bot", "inputs", 500, 3500, sample=5)
    thawed = windows.thaw(json.loads(json.dumps(windows.aggregates(window))))
    assert thawed.columns == window.columns
    assert (thawed.first, thawed.last, thawed.n, thawed.kind, thawed.records) == (
        500,
        3500,
        window.n,
        "inputs",
        "exposure",
    )
    assert windows.aggregates(thawed) == windows.aggregates(window)


@pytest.mark.parametrize("frozen", [{}, {"schema": 2}, {"schema": 1, "first": 0, "last": 1}])
def test_an_edited_baseline_is_corrupt(frozen: dict[str, Any]) -> None:
    with pytest.raises(Corrupt):
        windows.thaw(frozen)


def test_a_window_that_runs_backwards_is_refused(session: Session) -> None:
    with pytest.raises(Refused):
        windows.window(session, "bot", "inputs", 5, 4)
    with pytest.raises(Refused):
        windows.window(session, "bot", "ratings", 4, 5)


def test_a_topic_is_a_bin_that_inflection_and_case_do_not_change() -> None:
    assert topic("I want a refund") == topic("REFUNDS, please!") == topic("was it refunded?")
    assert topic("where is my invoice") != topic("I want a refund")
    assert topic("12 34 !") == topic("") == "none"
    assert topic("please") != "none"
