"""Files as a source: what is appended is read once, whatever happens to the files' names and the process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from feedback import db, store
from feedback.ingest import Ingest
from feedback.positions import Positions
from feedback.sources.files import FilesSource, Options
from feedback.tables import DeadLetter, Gap, Record
from tests.feedback.support import NOW, SETTINGS, wire

Open = Callable[..., Ingest]


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    folder = tmp_path / "feed"
    folder.mkdir()
    return folder


@pytest.fixture
def reader(engine: Engine, feed: Path) -> Open:
    """A new reader on the same folder and database: as after a restart."""

    def build(**options: object) -> Ingest:
        source = FilesSource(Options(feed, **options), Positions(engine, "test", lambda: NOW))  # type: ignore[arg-type]
        return Ingest(engine, source, SETTINGS, lambda: NOW, wait_seconds=0)

    return build


def append(path: Path, *ids: str, end: bytes = b"\n") -> None:
    with path.open("ab") as stream:
        stream.write(b"\n".join(wire(id=each) for each in ids) + end)


def stored(engine: Engine) -> list[str]:
    return db.read(engine, lambda session: list(session.scalars(select(Record.id).order_by(Record.seq))))


def gaps(engine: Engine) -> list[tuple[int, int]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(Gap.first, Gap.last))]


def test_lines_are_read_once_in_their_order_over_restarts(engine: Engine, feed: Path, reader: Open) -> None:
    append(feed / "a.jsonl", "r-1", "r-2")
    assert reader().step().stored == 2
    append(feed / "a.jsonl", "r-3")
    after = reader()
    assert after.step().stored == 1
    assert after.step().read == 0
    assert stored(engine) == ["r-1", "r-2", "r-3"]


def test_a_partial_last_line_waits_for_its_end(engine: Engine, feed: Path, reader: Open) -> None:
    ingest = reader()
    append(feed / "a.jsonl", "r-1")
    line = wire(id="r-2") + b"\n"
    for cut in (1, len(line) // 2, len(line) - 1):
        with (feed / "a.jsonl").open("ab") as stream:
            stream.write(line[:cut])
        ingest.step()
        assert stored(engine) == ["r-1"]
        with (feed / "a.jsonl").open("r+b") as stream:
            stream.truncate(stream.seek(0, 2) - cut)
    append(feed / "a.jsonl", "r-2")
    ingest.step()
    assert stored(engine) == ["r-1", "r-2"]


def test_a_file_that_nobody_appends_to_ends_without_a_line_break(engine: Engine, feed: Path, reader: Open) -> None:
    append(feed / "a.jsonl", "r-1", "r-2", end=b"")
    assert reader().step().stored == 1
    assert reader(final=True).step().stored == 1


def test_a_renamed_file_goes_on_and_its_successor_begins(engine: Engine, feed: Path, reader: Open) -> None:
    ingest = reader()
    append(feed / "a.jsonl", "r-1")
    ingest.step()
    append(feed / "a.jsonl", "r-2")
    (feed / "a.jsonl").rename(feed / "a.jsonl.1")
    append(feed / "a.jsonl", "r-3")
    report = reader().step()
    assert (report.stored, report.duplicates) == (2, 0)
    assert sorted(stored(engine)) == ["r-1", "r-2", "r-3"]
    assert gaps(engine) == []


def test_a_replaced_file_starts_anew(engine: Engine, feed: Path, reader: Open) -> None:
    ingest = reader()
    append(feed / "a.jsonl", "r-1", "r-2", "r-3")
    ingest.step()
    (feed / "a.jsonl").write_bytes(wire(id="r-4") + b"\n")
    ingest.step()
    assert stored(engine) == ["r-1", "r-2", "r-3", "r-4"]


def test_a_file_cut_short_is_a_gap_and_is_read_again(engine: Engine, feed: Path, reader: Open) -> None:
    ingest = reader()
    append(feed / "a.jsonl", "r-1", "r-2")
    ingest.step()
    (feed / "a.jsonl").write_bytes(wire(id="r-1") + b"\n")
    append(feed / "a.jsonl", "r-3")
    with (feed / "a.jsonl").open("r+b") as stream:
        stream.truncate(len(wire(id="r-1")) + 1)
    report = ingest.step()
    assert report.duplicates == 1
    assert len(gaps(engine)) == 1
    append(feed / "a.jsonl", "r-4")
    ingest.step()
    assert stored(engine) == ["r-1", "r-2", "r-4"]


def test_a_file_removed_before_its_end_is_a_gap(engine: Engine, feed: Path, reader: Open) -> None:
    ingest = reader()
    append(feed / "a.jsonl", "r-1", "r-2", end=b"")
    ingest.step()
    (feed / "a.jsonl").unlink()
    ingest.step()
    assert gaps(engine) == [(len(wire(id="r-1")) + 1, len(wire(id="r-1")) + len(wire(id="r-2")))]


def test_blank_lines_are_no_records_and_long_ones_are_refused(engine: Engine, feed: Path, reader: Open) -> None:
    append(feed / "a.jsonl", "r-1")
    with (feed / "a.jsonl").open("ab") as stream:
        stream.write(b"\n  \r\n" + b"x" * 3_000_000 + b"\n")
    append(feed / "a.jsonl", "r-2")
    report = reader().step()
    assert (report.stored, report.dead_letters) == (2, 1)
    letter = db.read(engine, lambda session: store.dead_letters(session, 1))[0]
    assert letter["reason"] == "too_large"
    assert letter["offset"] == len(wire(id="r-1")) + 1 + 5
    assert letter["source"] == "files/a.jsonl"


def test_two_readers_of_one_folder_store_nothing_twice(engine: Engine, feed: Path, reader: Open) -> None:
    one, other = reader(), reader()
    append(feed / "a.jsonl", "r-1")
    one.step()
    append(feed / "a.jsonl", "r-2")
    other.step()
    append(feed / "a.jsonl", "r-3", "bad")
    fenced = one.step()
    assert (fenced.fenced, fenced.stored) == (3, 0)
    one.step()
    other.step()
    with engine.connect() as connection:
        assert connection.scalars(select(DeadLetter.id)).all() == []
    assert stored(engine) == ["r-1", "r-2", "r-3", "bad"]


def test_compressed_and_unfinished_files_are_left_alone(engine: Engine, feed: Path, reader: Open) -> None:
    append(feed / "a.jsonl.gz", "r-1")
    append(feed / "a.jsonl.tmp", "r-2")
    (feed / "empty.jsonl").touch()
    assert reader().step().read == 0
