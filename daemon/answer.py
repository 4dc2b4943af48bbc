"""What an act answered: the outcome, what the audit log shall hold, and the rows that go with it.

Owns: one value. Called by `daemon.act` and the modules it calls; `daemon.loop` applies it in one transaction.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from daemon.tables import Cycle, Slot
from policies.model import Outcome

Apply = Callable[[Session, Slot, Cycle | None], None]


def nothing(_session: Session, _slot: Slot, _cycle: Cycle | None) -> None:
    """The effect of an answer that changes no row beyond the phase."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`apply` runs in the transaction that stores the outcome; it may run again, so it only writes rows.

    `error` is set where the world was away: it counts as an attempt, and `decide` says what follows.
    """

    outcome: Outcome
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    apply: Apply = nothing
    error: str = ""
