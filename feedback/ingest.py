"""Source to store: rows, offsets, counters, sketches and dead letters of one batch in one transaction.

Owns: the loop, its pauses, and that a message counts exactly once. Refuses to know Kafka and files, and what a record
means. Called by `daemon.service` in a thread of its own, and by `learnctl feedback import`.
"""

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from feedback import append, positions
from feedback.db import transact
from feedback.erase import erase
from feedback.records import Erase, Parsed, RecordSettings, parse
from feedback.refusals import describe
from feedback.sources import Position, Raw, Source
from feedback.wire import Rejected
from policies.errors import Transient

log = structlog.get_logger()

BATCH = 1000
WAIT_SECONDS = 0.5
LONGEST_PAUSE = 30.0

Read = tuple[Raw, Parsed | Rejected]


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one step did. `conflicts` are dead letters too; `erased` counts emptied records; `fenced` zombie messages."""

    read: int = 0
    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    conflicts: int = 0
    erased: int = 0
    fenced: int = 0

    def __add__(self, other: "IngestReport") -> "IngestReport":
        return IngestReport(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


class Ingest:
    """Takes batches from one source into one database. `now` gives unix seconds."""

    def __init__(
        self,
        engine: Engine,
        source: Source,
        settings: RecordSettings,
        now: Callable[[], float],
        *,
        batch: int = BATCH,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._engine = engine
        self._source = source
        self._settings = settings
        self._now = now
        self._batch = batch
        self._wait = wait_seconds
        self._pending: list[Read] = []
        self.total = IngestReport()
        self.trouble = ""

    def step(self, wait_seconds: float | None = None) -> IngestReport:
        """Read one batch and store it; a batch that could not be stored is kept and tried again by the next step.

        `wait_seconds`: how long to wait for a first message; as the reader was made with, unless told.

        Raises: Transient where the database is away.
        """
        wait = self._wait if wait_seconds is None else wait_seconds
        raws = self._source.poll(self._batch, 0.0 if self._pending else wait)
        self._pending += [(raw, self._parse(raw)) for raw in raws]
        if not self._pending:
            return IngestReport()
        report, reached, fenced = self._store(self._pending)
        self._pending = []
        self._source.committed(reached)
        if fenced:
            log.warning("another reader has taken over", partitions=[one.partition for one in fenced])
            self._source.fenced(fenced)
        self.total += report
        return report

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set; while the database is away the source is paused, its membership kept alive."""
        pause = 0.0
        while not stop.is_set():
            try:
                self.step()
            except Transient as error:
                self.trouble = str(error)
                log.warning("ingest waits", reason=str(error), hint=error.hint)
                self._source.pause()
                pause = min(LONGEST_PAUSE, 2 * pause or 0.2)
                # Short waits, so that step() polls meanwhile: a member that doesn't poll is thrown out of its group.
                stop.wait(min(pause, 5.0))
                continue
            if pause:
                pause, self.trouble = 0.0, ""
                self._source.resume()
                log.info("ingest goes on")

    def use(self, settings: RecordSettings) -> None:
        """Take over new settings (deployments, keys) from the next message on."""
        self._settings = settings

    def _parse(self, raw: Raw) -> Parsed | Rejected:
        settings = self._settings
        try:
            parsed = parse(raw.value, raw.headers, settings, self._now())
        except Rejected as rejected:
            return rejected
        except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
            # A fault of ours must not let one message stop all the others; the letter and the log show it.
            log.error("a message broke the reader", source=raw.source, offset=raw.offset, error=_where(error))
            return self._refuse(raw, "internal", "could not be read by a fault of learnd: report it with this offset")
        allowed = settings.erase_sources
        if isinstance(parsed, Erase) and allowed is not None and raw.source not in allowed:
            return self._refuse(raw, "misplaced", f"erasures are taken from {', '.join(sorted(allowed))} only")
        return parsed

    def _refuse(self, raw: Raw, reason: str, message: str) -> Rejected:
        rejected = Rejected(reason, "kind" if reason == "misplaced" else "", message)
        describe(rejected, raw.value, None, self._settings)
        return rejected

    def _store(self, reads: Sequence[Read]) -> tuple[IngestReport, list[Position], list[Position]]:
        now = self._now()
        try:
            return transact(self._engine, lambda session: _work(session, reads, now, self._settings.slices))
        except StatementError as error:
            # The database refuses a value that the reader let through: find it, bury it, keep the others.
            if len(reads) == 1 and not isinstance(reads[0][1], Rejected):
                raw = reads[0][0]
                log.error("a record can't be stored", source=raw.source, offset=raw.offset, error=_where(error.orig))
                refused = self._refuse(raw, "unstorable", "holds a value that the database refuses: send it simpler")
                return self._store([(raw, refused)])
            if len(reads) == 1 or getattr(error, "connection_invalidated", False):
                what = type(error.orig or error).__name__
                raise Transient(f"the database refuses to store: {what}", hint="does its schema fit?") from error
        half = len(reads) // 2
        one, other = self._store(reads[:half]), self._store(reads[half:])
        return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _where(error: BaseException | None) -> str:
    """A fault's kind and place: its message and the values around it may be a user's text, which no log may hold."""
    frames = traceback.extract_tb(error.__traceback__)[-3:] if error is not None else []
    return " < ".join([type(error).__name__, *(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))])


def _work(
    session: Session, reads: Sequence[Read], now: float, slices: Mapping[str, tuple[str, ...]]
) -> tuple[IngestReport, list[Position], list[Position]]:
    positions.lock(session)
    admitted, fenced = positions.admit(session, [raw for raw, _ in reads])
    parsed = {id(raw): value for raw, value in reads}
    counts: Counter[tuple[str, str]] = Counter()
    refused: list[tuple[Rejected, Raw]] = []
    waiting: list[append.Item] = []
    erased = 0
    for raw in admitted:
        value = parsed[id(raw)]
        if isinstance(value, Rejected):
            refused.append((value, raw))
        elif isinstance(value, Erase):
            # In the order they came: what stands before the wish is emptied, what comes after it is refused.
            _flush(session, waiting, counts, refused, now, slices)
            seqs = erase(
                session, value.deployment, ids=value.ids, user_hashes=value.user_hashes, before=value.time, now=now
            )
            erased += len(seqs)
            counts[value.deployment, "erased"] += len(seqs)
        else:
            waiting.append((value, raw))
    _flush(session, waiting, counts, refused, now, slices)
    append.bury(session, refused, now)
    for why, _ in refused:
        counts[why.deployment, "dead_letters"] += 1
        counts[why.deployment, "conflicts"] += why.reason == "conflict"
    append.bump(session, counts)
    reached = positions.advance(session, admitted)
    return _report(counts, len(admitted), erased, len(reads) - len(admitted)), reached, fenced


def _flush(
    session: Session,
    waiting: list[append.Item],
    counts: Counter[tuple[str, str]],
    refused: list[tuple[Rejected, Raw]],
    now: float,
    slices: Mapping[str, tuple[str, ...]],
) -> None:
    if not waiting:
        return
    for (record, raw), fate in zip(waiting, append.put(session, waiting, now, slices), strict=True):
        if isinstance(fate, Rejected):
            refused.append((fate, raw))
        else:
            counts[record.deployment, "stored" if fate == append.STORED else "duplicates"] += 1
    waiting.clear()


def _report(counts: Counter[tuple[str, str]], read: int, erased: int, skipped: int) -> IngestReport:
    totals: Counter[str] = Counter()
    for (_, name), value in counts.items():
        totals[name] += value
    return IngestReport(
        read=read,
        stored=totals["stored"],
        duplicates=totals["duplicates"],
        dead_letters=totals["dead_letters"],
        conflicts=totals["conflicts"],
        erased=erased,
        fenced=skipped,
    )
