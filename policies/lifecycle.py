"""The lifecycle of a slot as a table: (phase, outcome) -> phase. The table is the documentation.

Owns: every legal move. Refuses to know why a move happens (`decide`) or how (`daemon.act`). Called by `daemon.loop`;
the README's diagram is generated from `diagram()`.
"""

from policies.errors import Corrupt
from policies.model import Outcome, Phase

_P, _O = Phase, Outcome

TABLE: dict[tuple[Phase, Outcome], Phase] = {
    (_P.GATHERING, _O.READY): _P.IDLE,
    (_P.GATHERING, _O.ROLLED_BACK): _P.GATHERING,
    (_P.GATHERING, _O.UNFINISHED): _P.ROLLING_BACK,
    (_P.GATHERING, _O.REFUSED): _P.GATHERING,
    (_P.IDLE, _O.LACKING): _P.GATHERING,
    (_P.IDLE, _O.TRAINING_STARTED): _P.TRAINING,
    (_P.IDLE, _O.REFUSED): _P.IDLE,
    (_P.IDLE, _O.RETRY): _P.IDLE,
    (_P.IDLE, _O.ROLLED_BACK): _P.IDLE,
    (_P.IDLE, _O.UNFINISHED): _P.ROLLING_BACK,
    (_P.TRAINING, _O.TRAINING_STARTED): _P.TRAINING,
    (_P.TRAINING, _O.EVALUATION_STARTED): _P.EVALUATING,
    (_P.TRAINING, _O.REFUSED): _P.IDLE,
    (_P.TRAINING, _O.RETRY): _P.TRAINING,
    (_P.TRAINING, _O.CANCELLED): _P.IDLE,
    (_P.TRAINING, _O.FAILED): _P.IDLE,
    (_P.EVALUATING, _O.EVALUATION_STARTED): _P.EVALUATING,
    (_P.EVALUATING, _O.JUDGED): _P.EVALUATING,
    (_P.EVALUATING, _O.TRAINING_STARTED): _P.TRAINING,
    (_P.EVALUATING, _O.REJECTED): _P.IDLE,
    (_P.EVALUATING, _O.REFUSED): _P.IDLE,
    (_P.EVALUATING, _O.ASKED): _P.APPROVING,
    (_P.EVALUATING, _O.RETRY): _P.EVALUATING,
    (_P.EVALUATING, _O.CANCELLED): _P.IDLE,
    (_P.EVALUATING, _O.FAILED): _P.IDLE,
    (_P.EVALUATING, _O.PROMOTED): _P.WATCHING,
    (_P.EVALUATING, _O.RAMPING): _P.RAMPING,
    (_P.EVALUATING, _O.UNFINISHED): _P.PROMOTING,
    (_P.EVALUATING, _O.MISSERVED): _P.ROLLING_BACK,
    (_P.APPROVING, _O.EVALUATION_STARTED): _P.EVALUATING,
    (_P.APPROVING, _O.JUDGED): _P.EVALUATING,
    (_P.APPROVING, _O.REJECTED): _P.IDLE,
    (_P.APPROVING, _O.RETRY): _P.APPROVING,
    (_P.APPROVING, _O.CANCELLED): _P.IDLE,
    (_P.APPROVING, _O.PROMOTED): _P.WATCHING,
    (_P.APPROVING, _O.RAMPING): _P.RAMPING,
    (_P.APPROVING, _O.UNFINISHED): _P.PROMOTING,
    (_P.APPROVING, _O.MISSERVED): _P.ROLLING_BACK,
    (_P.APPROVING, _O.REFUSED): _P.IDLE,
    (_P.PROMOTING, _O.PROMOTED): _P.WATCHING,
    (_P.PROMOTING, _O.RAMPING): _P.RAMPING,
    (_P.PROMOTING, _O.UNFINISHED): _P.PROMOTING,
    (_P.PROMOTING, _O.MISSERVED): _P.ROLLING_BACK,
    (_P.PROMOTING, _O.ROLLED_BACK): _P.IDLE,
    (_P.PROMOTING, _O.REFUSED): _P.ROLLING_BACK,
    (_P.RAMPING, _O.RAMPING): _P.RAMPING,
    (_P.RAMPING, _O.RAMPED): _P.WATCHING,
    (_P.RAMPING, _O.UNFINISHED): _P.ROLLING_BACK,
    (_P.RAMPING, _O.MISSERVED): _P.ROLLING_BACK,
    (_P.RAMPING, _O.RETRY): _P.RAMPING,
    (_P.RAMPING, _O.ROLLED_BACK): _P.IDLE,
    (_P.RAMPING, _O.REFUSED): _P.ROLLING_BACK,
    (_P.WATCHING, _O.SETTLED): _P.IDLE,
    (_P.WATCHING, _O.UNPROVEN): _P.IDLE,
    (_P.WATCHING, _O.ROLLED_BACK): _P.IDLE,
    (_P.WATCHING, _O.UNFINISHED): _P.ROLLING_BACK,
    (_P.WATCHING, _O.RETRY): _P.WATCHING,
    (_P.WATCHING, _O.REFUSED): _P.WATCHING,
    (_P.ROLLING_BACK, _O.ROLLED_BACK): _P.IDLE,
    (_P.ROLLING_BACK, _O.UNFINISHED): _P.ROLLING_BACK,
    (_P.ROLLING_BACK, _O.REFUSED): _P.ROLLING_BACK,
}

# All that an action (by its class name) may answer: the table has a move for every one of them, in every phase that asks.
ANSWERS: dict[str, frozenset[Outcome]] = {
    "Train": frozenset({_O.TRAINING_STARTED, _O.REFUSED, _O.RETRY}),
    "Evaluate": frozenset({_O.EVALUATION_STARTED, _O.JUDGED, _O.REFUSED, _O.RETRY}),
    "Reject": frozenset({_O.REJECTED, _O.RETRY}),
    "AskApproval": frozenset({_O.ASKED, _O.RETRY}),
    "Promote": frozenset({_O.PROMOTED, _O.RAMPING, _O.UNFINISHED, _O.MISSERVED, _O.REFUSED}),
    "Ramp": frozenset({_O.RAMPING, _O.RAMPED, _O.MISSERVED, _O.REFUSED, _O.RETRY}),
    "Settle": frozenset({_O.SETTLED, _O.UNPROVEN, _O.RETRY}),
    "Rollback": frozenset({_O.ROLLED_BACK, _O.UNFINISHED, _O.REFUSED}),
    "Cancel": frozenset({_O.CANCELLED, _O.RETRY}),
    "Fail": frozenset({_O.FAILED, _O.RETRY}),
}


def advance(phase: Phase, outcome: Outcome) -> Phase:
    """The phase after `outcome`.

    Raises: Corrupt where the table has no such move: the state is wrong, and guessing would make it worse.
    """
    try:
        return TABLE[phase, outcome]
    except KeyError:
        raise Corrupt(
            f"no move from {phase} on {outcome}",
            hint="this is a defect or an edited database; run learnctl audit verify and report it",
        ) from None


def diagram() -> str:
    """The table as a Mermaid state diagram, one line an edge, sorted; moves that stay where they are left out."""
    edges: dict[tuple[Phase, Phase], list[str]] = {}
    for (phase, outcome), after in TABLE.items():
        if phase is not after:
            edges.setdefault((phase, after), []).append(outcome.value)
    lines = [f"    {a.value} --> {b.value}: {', '.join(sorted(why))}" for (a, b), why in edges.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> gathering", *sorted(lines)])
