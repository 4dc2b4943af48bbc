"""Where records come from: the contract that Kafka and files both keep.

Owns: the Source protocol and what one raw message carries. Refuses to know records and the database, except for the
positions that are handed in. Called by `feedback.ingest`.

A source never decides where to go on by itself: the stored position does, read when a partition is claimed. What it
gives out but isn't stored is given again after a restart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Raw:
    """One message as it lay in its source. `next` is the offset to go on at once it is stored.

    `generation` is what `Positions.claim` answered for the partition: a later claim makes this message a zombie's.
    """

    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    source: str = ""
    topic_id: str = ""
    cluster: str = ""
    partition: int = 0
    offset: int = 0
    next: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """The offset to go on at in one partition, under one claim."""

    cluster: str
    source: str
    topic_id: str
    partition: int
    next: int
    generation: int


class Source(Protocol):
    """What `feedback.ingest` reads from. One thread calls it."""

    def poll(self, max_records: int, timeout_seconds: float) -> list[Raw]:
        """Up to `max_records` further messages in the order of their partitions; empty after `timeout_seconds`.

        While paused it keeps the membership alive and gives nothing. Raises: Transient where positions can't be read.
        """
        ...

    def committed(self, positions: Sequence[Position]) -> None:
        """The store holds everything before these positions (advisory: the store's own are the truth)."""
        ...

    def fenced(self, positions: Sequence[Position]) -> None:
        """Somebody else has claimed these partitions: what was read under the old claim has been thrown away."""
        ...

    def pause(self) -> None:
        """Give nothing for now, but stay a member."""
        ...

    def resume(self) -> None:
        """Go on where the pause began."""
        ...

    def close(self) -> None:
        """Leave cleanly."""
        ...
