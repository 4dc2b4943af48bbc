"""JSON Lines files that are appended to in a folder: byte offsets, partial last lines, rotation. No server needed.

Owns: which file is which when it is renamed, replaced or cut short. Refuses to know records and tables. Called by
`feedback.ingest`.

A file is its inode and its first line: renamed it goes on, replaced it starts anew. One cut shorter than what was read
is a gap and starts anew (what comes twice is a duplicate). A file without its first line break isn't read yet.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from feedback.positions import FILES, Positions
from feedback.sources import Position, Raw

log = structlog.get_logger()

LOOK_SECONDS = 0.1
IGNORED = frozenset({".gz", ".zst", ".xz", ".bz2", ".tmp", ".part"})


@dataclass(frozen=True, slots=True)
class Options:
    """`folder` and the `pattern` of its files; `name` stands before a file's name in what is stored of the origin.

    `max_bytes`: a longer line is given out cut off, to be refused. `final`: a last line without a line break counts as
    a line (for files that nobody appends to any more).
    """

    folder: Path
    pattern: str = "*.jsonl*"
    name: str = "files"
    max_bytes: int = 1 << 20
    final: bool = False


@dataclass(slots=True)
class _File:
    """One file as far as it was given out. `size` is what was last seen of it."""

    path: Path
    source: str
    topic_id: str
    next: int
    generation: int
    size: int


class FilesSource:
    """A folder as a source (see `feedback.sources.Source`)."""

    def __init__(self, options: Options, positions: Positions) -> None:
        self._options = options
        self._positions = positions
        self._files: dict[str, _File] = {}
        self._paused = False

    def poll(self, max_records: int, timeout_seconds: float) -> list[Raw]:
        """Up to `max_records` further lines, oldest file first. Raises: Transient where positions can't be read."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = [] if self._paused else self._look(max_records)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            time.sleep(min(LOOK_SECONDS, left))

    def committed(self, positions: Sequence[Position]) -> None:
        """Nothing to do: the stored positions are all there is."""

    def fenced(self, positions: Sequence[Position]) -> None:
        """Forget the files that another reader took over: they are claimed anew when they are looked at next."""
        for lost in positions:
            file = self._files.get(lost.topic_id)
            if file is not None and file.generation == lost.generation:
                del self._files[lost.topic_id]

    def pause(self) -> None:
        """Give nothing for now."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False

    def close(self) -> None:
        """Forget all files; nothing is held open between two polls."""
        self._files.clear()

    def _look(self, max_records: int) -> list[Raw]:
        seen: set[str] = set()
        raws: list[Raw] = []
        for path in self._paths():
            if len(raws) >= max_records:
                return raws
            try:
                with path.open("rb") as stream:
                    file = self._identify(path, stream)
                    if file is not None:
                        seen.add(file.topic_id)
                        raws += self._lines(file, stream, max_records - len(raws))
            except FileNotFoundError:
                continue  # renamed between the listing and the opening: the next look finds it
        self._miss(seen)
        return raws

    def _paths(self) -> list[Path]:
        aged = []
        for path in self._options.folder.glob(self._options.pattern):
            try:
                if path.suffix not in IGNORED and path.is_file():
                    aged.append((path.stat().st_mtime_ns, path.name, path))
            except FileNotFoundError:
                continue
        return [path for _, _, path in sorted(aged)]

    def _identify(self, path: Path, stream: BinaryIO) -> _File | None:
        head = stream.readline(4096)
        whole = head.endswith(b"\n") or len(head) == 4096 or (self._options.final and head)
        if not whole:
            return None
        inode = os.fstat(stream.fileno()).st_ino
        topic_id = f"{inode:x}-{hashlib.sha256(head).hexdigest()[:16]}"
        size = stream.seek(0, 2)
        file = self._files.get(topic_id)
        if file is None:
            source = self._positions.source_of(FILES, topic_id) or f"{self._options.name}/{path.name}"
            claim = self._positions.claim(FILES, source, topic_id, 0)
            file = self._files[topic_id] = _File(path, source, topic_id, claim.next or 0, claim.generation, size)
        if size < file.next:
            claim = self._positions.gap(FILES, file.source, topic_id, 0, last=file.next - 1, resume=0)
            file.next, file.generation = 0, claim.generation
        file.path, file.size = path, size
        return file

    def _lines(self, file: _File, stream: BinaryIO, max_records: int) -> list[Raw]:
        raws = []
        stream.seek(file.next)
        for start, value, end in self._split(stream, file.next):
            file.next = end
            if value.strip():
                raws.append(
                    Raw(
                        value=value,
                        source=file.source,
                        topic_id=file.topic_id,
                        cluster=FILES,
                        offset=start,
                        next=end,
                        generation=file.generation,
                    )
                )
            if len(raws) >= max_records:
                break
        return raws

    def _split(self, stream: BinaryIO, start: int) -> Iterator[tuple[int, bytes, int]]:
        """Complete lines with the offsets of their start and of what follows; too long ones are cut off."""
        longest = self._options.max_bytes + 2
        while line := stream.readline(longest):
            end, piece = start + len(line), line
            while len(piece) == longest and not piece.endswith(b"\n"):
                piece = stream.readline(longest)
                end += len(piece)
            if not piece.endswith(b"\n") and not (self._options.final and stream.read(1) == b""):
                return  # its end is still to be written
            yield start, line.rstrip(b"\r\n"), end
            start = end

    def _miss(self, seen: set[str]) -> None:
        """Files that are gone from the folder: forgotten, and a gap where they had more than was read."""
        for topic_id in self._files.keys() - seen:
            file = self._files.pop(topic_id)
            if file.next < file.size:
                log.warning("a file is gone before it was read to its end", file=str(file.path), unread_from=file.next)
                self._positions.gap(FILES, file.source, topic_id, 0, last=file.size - 1, resume=file.size)
