"""A window is what its blocks' rows are, reads none of them, and freezes losslessly."""

import json
import random
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event
from sqlalchemy.orm import Session

from feedback import sketch, windows
from feedback.asked import Asked
from feedback.db import connect
from feedback.records import question
from feedback.tables import Record, Sketch
from feedback.topics import topic
from policies.errors import Corrupt, Refused
from tests import fresh
from tests.feedback.support import sketched

WORDS = ("invoice", "parcel", "password", "refund", "address", "voucher", "delivery", "receipt", "warranty")
ROWS = 4321


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "sqlite":
        made = connect(f"sqlite:///{tmp_path_factory.mktemp('windows')}/learnd.db")
    else:
        made = connect(request.getfixturevalue("postgres_server").database())
    fresh.migrate(made)
    with Session(made) as session, session.begin():
        fill(session, random.Random(1))
    yield made
    made.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine.execution_options(learnd_reads=True)) as opened:
        yield opened


def fill(session: Session, draw: random.Random) -> None:
    """Every fourth record of `bot` is feedback, every ninth of all belongs to `other`, which sends no exposures.

    From record 3000 on another version answers, and every record comes in on a Tuesday.
    """
    seen = []
    for seq in range(1, ROWS + 1):
        deployment = "other" if seq % 9 == 0 else "bot"
        kind = "feedback" if seq % 4 == 0 or deployment == "other" else "exposure"
        row = Record(
            seq=seq, deployment=deployment, id=str(seq), kind=kind, time=0.0, ingested=0.0, fold="train",
            rating=draw.choice([1.0, -1.0, 0.0]) if kind == "feedback" else None, content_hash="", commitment="",
            model_version=version(seq), tenant="acme" if seq % 8 == 0 else "",
            features={"latency": draw.lognormvariate(0, 1), "device": draw.choice(["phone", "desk"])}, source="s",
            body={"messages": [{"role": "user", "content": f"my {draw.choice(WORDS)} number {seq}"}], "response": "so"},
        )  # fmt: skip
        session.add(row)
        text = question(row.body["messages"])
        columns = sketch.columns(row.features, text, "so", row.rating)
        seen.append(
            sketch.Observation(
                deployment, seq, kind, columns, "1", version(seq), row.tenant, ("tenant", "device"), asked(seq)
            )
        )
    sketch.add(session, seen[:2025])
    sketch.add(session, seen[2025:])


def asked(seq: int) -> str:
    """The keyed hash of a question that comes again after 900 records."""
    return sha256(str(seq % 900).encode()).hexdigest()


def version(seq: int) -> str:
    return "bot@new" if seq >= 3000 else "bot@old"


def plain(window: windows.Window) -> dict[str, Any]:
    """What was counted, with the sums rounded: floats add up differently in another order."""
    whole = {name: window.counts[name]["1"] for name in window.columns}
    return {name: {key: round(value, 6) for key, value in counts.items()} for name, counts in whole.items()}


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
            sketch.count(counts.setdefault(name, {"n": 0}), value)
    return {name: {key: round(value, 6) for key, value in c.items()} for name, c in counts.items()}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(st.integers(0, 43), st.integers(0, 43)).map(sorted))
def test_a_window_of_whole_blocks_counts_what_its_rows_are(session: Session, rows: Any, span: list[int]) -> None:
    first, last = (max(block * sketch.BLOCK - 1, 0) for block in span)
    window = windows.window(session, "bot", "inputs", first, last)
    assert plain(window) == row_by_row(rows, first, last)
    assert window.n == sum(first < seq <= last for seq, _ in rows)


@pytest.mark.parametrize(
    ("span", "counted"),
    [((0, 0), (0, 0)), ((0, 98), (0, 0)), ((0, 99), (0, 99)), ((0, 100), (0, 99)), ((50, 200), (99, 199)),
     ((99, 199), (99, 199)), ((100, 199), (199, 199)), ((0, 4320), (0, 4299)), ((4250, ROWS), (4299, ROWS)),
     ((0, ROWS + 999), (0, ROWS))],
)  # fmt: skip
def test_a_block_that_reaches_beyond_the_edge_is_left_out_and_the_newest_counts_as_far_as_it_goes(
    session: Session, rows: Any, span: tuple[int, int], counted: tuple[int, int]
) -> None:
    assert plain(windows.window(session, "bot", "inputs", *span)) == row_by_row(rows, *counted)


def test_a_slice_counts_what_its_rows_are_and_what_tells_it_is_no_column(session: Session, rows: Any) -> None:
    window = windows.window(session, "bot", "inputs", 999, 2999)
    assert set(window.slices) == {"device=phone", "device=desk"}  # exposures have no tenant
    for name, one in window.slices.items():
        mine = [(seq, columns) for seq, columns in rows if f"device={columns['device']}" == name]
        expected = row_by_row(mine, 999, 2999)
        del expected["device"]
        assert plain(one) == expected
        assert one.n == sum(999 < seq <= 2999 for seq, _ in mine)


def test_a_slices_window_is_blocks_of_its_own_behind_its_own_reference(session: Session) -> None:
    given = {"session": session, "deployment": "other", "kind": "inputs", "size": 20, "blocks": 3, "after": 0}
    window = windows.current(**given, slice_size=8, slice_after={"device=desk": ROWS - 600})
    phone, desk = window.slices["device=phone"], window.slices["device=desk"]
    acme = window.slices["tenant=acme"]
    assert [len(one.blocks) for one in (phone, acme)] == [3, 3]
    assert all(block.n >= 8 for one in (phone, acme, desk) for block in one.blocks)
    assert acme.first < phone.first  # rarer, so that it reaches further back
    assert desk.first >= ROWS - 700
    assert windows.current(**given).slices == {}


def test_no_row_is_read_for_a_window_or_its_blocks(engine: Engine) -> None:
    with Session(engine.execution_options(learnd_reads=True)) as session:
        loaded: list[Record] = []
        event.listen(session, "loaded_as_persistent", lambda _session, row: loaded.append(row))
        assert windows.window(session, "bot", "inputs", 990, 4010).n
        assert windows.current(session, "bot", "inputs", size=300, blocks=4, after=0).n
        assert windows.latest(session, "bot", "inputs", 300)
    assert loaded == []


@pytest.mark.parametrize("size", [20, 100, 333])
@pytest.mark.parametrize("after", [0, 1, 3777])
def test_a_current_window_is_consecutive_blocks_of_one_size_after_the_reference(
    session: Session, rows: Any, size: int, after: int
) -> None:
    window = windows.current(session, "bot", "inputs", size=size, blocks=4, after=after)
    possible = sum(seq > after for seq, _ in rows) // size
    assert min(4, possible) - 1 <= len(window.blocks) <= 4
    assert all(size <= block.n < size + sketch.BLOCK for block in window.blocks)
    assert all(one.last == other.first for one, other in pairwise(window.blocks))
    assert (window.first, window.last) == (window.blocks[0].first, ROWS)
    assert window.first >= after
    for part in (*window.blocks, window):
        assert plain(part) == row_by_row(rows, part.first, part.last)


def test_a_current_window_without_a_whole_block_is_empty(session: Session) -> None:
    window = windows.current(session, "bot", "inputs", size=500, blocks=4, after=ROWS - 200)
    assert (window.first, window.last, window.n, window.blocks) == (ROWS, ROWS, 0, ())


def test_a_long_window_can_be_thinned_out(session: Session, rows: Any) -> None:
    every, some = (windows.window(session, "bot", "inputs", 0, ROWS, most=most) for most in (0, 10))
    assert 0.15 < some.n / every.n < 0.3  # 9 of 44 blocks
    assert set(some.columns) == set(every.columns)


def test_inputs_are_exposures_or_feedback_where_none_are_sent(session: Session) -> None:
    assert windows.window(session, "bot", "inputs", 0, ROWS).records == "exposure"
    other = windows.window(session, "other", "inputs", 0, ROWS)
    assert (other.records, other.n) == ("feedback", ROWS // 9)
    assert "rating" not in other.columns


def test_outcomes_are_the_ratings_of_one_version_and_of_its_slices(session: Session) -> None:
    rated = session.query(Record).filter(Record.deployment == "bot", Record.kind == "feedback").all()
    for name in ("bot@old", "bot@new"):
        mine = [row for row in rated if row.model_version == name]
        window = windows.window(session, "bot", "outcomes", 0, ROWS, version=name)
        rating, tenant = window.columns["rating"], window.slices["tenant=acme"].columns["rating"]
        assert (rating.good, rating.neutral, rating.bad) == tuple(
            sum(row.rating == value for row in mine) for value in (1.0, 0.0, -1.0)
        )
        assert (tenant.good, tenant.bad) == tuple(
            sum(row.rating == value and row.tenant == "acme" for row in mine) for value in (1.0, -1.0)
        )
        assert {"device=phone", "device=desk"} < set(window.slices)
        assert "tenant=" not in window.slices
    assert windows.window(session, "bot", "outcomes", 0, ROWS, version="bot@gone").n == 0


def test_numbers_and_categories_are_told_apart(session: Session) -> None:
    columns = windows.window(session, "bot", "inputs", 0, ROWS).columns
    assert {name for name, column in columns.items() if column.numeric} == {
        "latency",
        "prompt_length",
        "response_length",
    }
    assert set(columns) >= {"device", "language", "topic"}


@pytest.mark.parametrize("n", [1, 7, 500, 1999])
def test_the_latest_window_holds_at_least_as_many_as_were_asked_for(session: Session, n: int) -> None:
    first, last = windows.latest(session, "bot", "inputs", n)
    assert last == ROWS
    assert n <= windows.window(session, "bot", "inputs", first, last).n < n + sketch.BLOCK
    assert windows.latest(session, "bot", "outcomes", n, version="bot@new")[0] >= 2899


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
    everything = windows.window(session, "bot", "inputs", 0, ROWS, sample=10**6)
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
    outcomes = windows.window(session, "bot", "outcomes", 500, 3500, version="bot@old")
    assert windows.thaw(json.loads(json.dumps(windows.aggregates(outcomes)))).columns == outcomes.columns


def test_a_window_knows_what_its_records_asked(session: Session, rows: Any) -> None:
    for window in (
        windows.window(session, "bot", "inputs", 999, 2999),
        windows.current(session, "bot", "inputs", size=300, blocks=2, after=0),
        windows.window(session, "bot", "inputs", ROWS, ROWS),
    ):
        hashes = {int(asked(seq)[-10:], 16) for seq, _ in rows if window.first < seq <= window.last}
        assert window.asked == Asked(window.n, tuple(sorted(hashes)))
        assert windows.thaw(json.loads(json.dumps(windows.aggregates(window)))).asked == window.asked
        assert not any(one.asked for one in window.slices.values())
    parts = [windows.window(session, "bot", "inputs", *span) for span in ((0, 1999), (1999, 3999))]
    assert windows.joined(parts).asked == windows.window(session, "bot", "inputs", 0, 3999).asked
    assert windows.window(session, "bot", "outcomes", 0, ROWS, version="bot@old").asked is None


def test_what_was_asked_is_unknown_where_one_block_was_ingested_before_it_was_kept(engine: Engine) -> None:
    with Session(engine) as session:  # rolled back
        mine = (Sketch.deployment == "bot", Sketch.kind == "exposure/questions", Sketch.block == 12)
        session.execute(delete(Sketch).where(*mine))
        assert windows.window(session, "bot", "inputs", 999, 2999).asked is None
        assert windows.window(session, "bot", "inputs", 1299, 2999).asked is not None
        found = windows.window(session, "bot", "inputs", 999, 2999)
        assert windows.thaw(json.loads(json.dumps(windows.aggregates(found)))).asked is None


def test_a_window_frozen_before_questions_were_kept_still_thaws(session: Session) -> None:
    frozen = windows.aggregates(windows.window(session, "bot", "inputs", 999, 2999))
    del frozen["asked"]
    thawed = windows.thaw(frozen)
    assert (thawed.asked, thawed.n) == (None, frozen["n"])
    assert windows.joined([thawed, windows.window(session, "bot", "inputs", 2999, 3999)]).asked is None
    with pytest.raises(Corrupt):
        windows.thaw({**frozen, "asked": {"n": 3, "hashes": ["?"]}})


def test_a_window_frozen_before_weekdays_were_kept_still_thaws() -> None:
    flat = {"x": {"n": 3, "=a": 2, "=b": 1}}
    frozen = {"schema": 1, "kind": "inputs", "records": "feedback", "first": 0, "last": 9, "n": 3, "columns": flat}
    thawed = windows.thaw(frozen)
    assert (thawed.n, thawed.columns["x"].bins, thawed.days("x")) == (3, {"=a": 2, "=b": 1}, {"": flat["x"]})


def test_the_rarest_words_of_a_frozen_window_are_taken_together() -> None:
    parts = [
        sketched([{"order": "often"}, *({"order": f"o{hundred}-{n}"} for n in range(99))]) for hundred in range(20)
    ]
    kept = windows.thaw(windows.aggregates(windows.joined(parts))).columns["order"]
    assert (kept.n, len(kept.bins), kept.bins["=often"], kept.bins[sketch.OTHER]) == (2000, 1001, 20, 981)


@pytest.mark.parametrize("frozen", [{}, {"schema": 3}, {"schema": 1, "first": 0, "last": 1}])
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
