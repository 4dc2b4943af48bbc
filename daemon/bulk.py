"""Whole files into the store, by the same ingest that a source goes through: once a record, every refusal a dead letter.

Owns: a file as a source that ends. Refuses to know records (`feedback.records`) and to watch a folder
(`feedback.sources.files`). Called by `learnctl feedback import` and the demo.

Every import is a partition of its own, so that a file can be imported again (its records are duplicates then, and what is
refused is refused again) and a killed import simply be repeated.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from io import BufferedReader
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from daemon.clock import Clock
from daemon.config import Settings
from daemon.keys import record_settings
from feedback.ingest import Ingest, IngestReport
from feedback.positions import FILES, Positions
from feedback.sources import Position, Raw

OWNER = "learnctl"


def import_files(engine: Engine, settings: Settings, files: Iterable[Path], clock: Clock) -> dict[str, Any]:
    """Read every file to its end; the counts of `IngestReport` over all of them, and `files` one by one.

    Raises: Transient where the database is away, OSError where a file can't be read.
    """
    rules = record_settings(settings)
    positions = Positions(engine, OWNER, clock.now)
    told, whole = [], IngestReport()
    for path in files:
        with path.open("rb") as stream:
            source = _Whole(path, stream, positions, settings.records.max_bytes, f"{clock.now():.6f}")
            ingest = Ingest(engine, source, rules, clock.now, wait_seconds=0.0)
            while not source.ended:
                ingest.step()
        told.append({"file": str(path), **asdict(ingest.total)})
        whole += ingest.total
    return {**asdict(whole), "files": told}


class _Whole:
    """One file from its first line to its last (see `feedback.sources.Source`); a last line needs no line break."""

    def __init__(self, path: Path, stream: BufferedReader, positions: Positions, max_bytes: int, run: str) -> None:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        self.source, self.topic_id = f"import/{path.name}", f"{digest[:16]}-{run}"
        self.generation = positions.claim(FILES, self.source, self.topic_id, 0).generation
        self.lines = _lines(stream, max_bytes)
        self.ended = False

    def poll(self, max_records: int, timeout_seconds: float) -> list[Raw]:  # noqa: ARG002 - a file doesn't wait
        """The next lines."""
        found: list[Raw] = []
        for start, value, end in self.lines:
            found.append(
                Raw(
                    value=value,
                    source=self.source,
                    topic_id=self.topic_id,
                    cluster=FILES,
                    offset=start,
                    next=end,
                    generation=self.generation,
                )
            )
            if len(found) >= max_records:
                return found
        self.ended = True
        return found

    def committed(self, positions: Sequence[Position]) -> None:
        """Nothing to do: the stored positions are all there is."""

    def fenced(self, positions: Sequence[Position]) -> None:
        """Nobody else can claim this import."""

    def pause(self) -> None:
        """A file waits by itself."""

    def resume(self) -> None:
        """A file goes on by itself."""

    def close(self) -> None:
        """Whoever opened the file closes it."""


def _lines(stream: BufferedReader, max_bytes: int) -> Iterator[tuple[int, bytes, int]]:
    """(start, line, end) of every line that isn't blank; one that is too long is cut off, to be refused as such."""
    longest, start = max_bytes + 2, 0
    while line := stream.readline(longest):
        end, piece = start + len(line), line
        while len(piece) == longest and not piece.endswith(b"\n"):
            piece = stream.readline(longest)
            end += len(piece)
        if line.strip():
            yield start, line.rstrip(b"\r\n"), end
        start = end
