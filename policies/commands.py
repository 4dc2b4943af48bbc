"""A person's wishes: which one counts now, and the answer to one that can't be carried out.

Owns: what each verb asks for in each phase. Refuses to know who may say it (the socket does). Called by
`policies.decide`, and by `daemon.loop`, which closes what `answer` refuses before it asks `decide`.
"""

from policies import triggers
from policies.model import CommandView, Phase, Snapshot
from policies.policy import Policy

VERBS = ("train", "approve", "reject", "promote", "rollback", "pause", "resume")
RUNNING = frozenset({Phase.TRAINING, Phase.EVALUATING, Phase.APPROVING})
SERVING = frozenset({Phase.PROMOTING, Phase.RAMPING, Phase.WATCHING})


def wish(snapshot: Snapshot, *verbs: str) -> CommandView | None:
    """The oldest open command of these verbs."""
    return next((command for command in snapshot.commands if command.verb in verbs), None)


def candidate_name(snapshot: Snapshot) -> str:
    """The candidate of the running cycle, "" without one."""
    return snapshot.cycle.candidate if snapshot.cycle is not None else ""


def retreat(snapshot: Snapshot) -> str:
    """What to serve again when the candidate must go: the champion, or the one before once it is the champion."""
    champion = snapshot.champion.name if snapshot.champion is not None else ""
    ours = candidate_name(snapshot)
    if snapshot.phase in {Phase.GATHERING, Phase.IDLE, Phase.WATCHING} or (ours and ours == champion):
        return snapshot.predecessor
    if not ours and snapshot.phase in {Phase.RAMPING, Phase.ROLLING_BACK}:
        return snapshot.predecessor or champion
    return champion or snapshot.predecessor


def rollback_to(command: CommandView, snapshot: Snapshot) -> str:
    """What a rollback command means now, "" when there is nothing to go back to."""
    if snapshot.phase in RUNNING:
        return command.version or snapshot.predecessor
    if snapshot.phase is Phase.PROMOTING:
        return retreat(snapshot)
    unfinished = snapshot.rolling_back_to if snapshot.phase is Phase.ROLLING_BACK else ""
    return command.version or unfinished or retreat(snapshot)


def answer(command: CommandView, snapshot: Snapshot, policy: Policy | None = None) -> str | None:
    """Why a command can't be carried out now, None when it can (or will be, in a later tick).

    With `policy`, a train command is also refused for what waiting alone doesn't change (no new records, budget spent).
    """
    if command.verb not in VERBS:
        return f"there is no command {command.verb!r}; there are {', '.join(VERBS)}"
    if command.verb == "pause":
        return f"already paused by {snapshot.paused_by}" if snapshot.paused_by else None
    if command.verb == "resume":
        return None if snapshot.paused_by else "nothing is paused"
    if command.verb == "rollback":
        return _rollback(command, snapshot)
    if command.verb != "reject" and snapshot.paused_by:
        return f"paused by {snapshot.paused_by}: resume first"
    if command.verb == "train":
        return _train(snapshot, policy)
    return _judgement(command, snapshot)


def _rollback(command: CommandView, snapshot: Snapshot) -> str | None:
    champion = snapshot.champion.name if snapshot.champion is not None else ""
    to = rollback_to(command, snapshot)
    if not to:
        return "there is no version to go back to"
    undoes = snapshot.phase in {Phase.PROMOTING, Phase.ROLLING_BACK, Phase.RAMPING}
    if to == champion and not undoes:
        return f"{to} is what serves already"
    if to == candidate_name(snapshot) and snapshot.phase in RUNNING | SERVING:
        return f"{to} is the candidate, not a version that served before it"
    return None


def _train(snapshot: Snapshot, policy: Policy | None) -> str | None:
    if snapshot.phase is Phase.GATHERING:
        return "the slot is still gathering what it needs: learnctl status lists what is missing"
    if snapshot.phase is not Phase.IDLE:
        return f"a cycle is running ({snapshot.phase.value}): ask again when it has ended"
    if policy is None:
        return None
    hold = triggers.held(snapshot, policy, triggers.Trigger("command", ""))
    return hold.reason if hold is not None and hold.lasting else None


def _judgement(command: CommandView, snapshot: Snapshot) -> str | None:
    ours, phase = candidate_name(snapshot), snapshot.phase
    if command.verb == "approve" and phase is not Phase.APPROVING:
        return f"nothing waits for an approval ({phase.value})"
    if command.verb == "promote" and phase not in {Phase.EVALUATING, Phase.APPROVING}:
        return f"no candidate is under evaluation ({phase.value}): a version is promoted by the cycle that judged it"
    if command.verb == "reject" and phase not in RUNNING:
        gone = "it serves already: use rollback" if phase in SERVING else phase.value
        return f"there is no candidate to reject ({gone})"
    if command.version and command.version != ours:
        return f"{command.version} is not the candidate: {f'{ours} is' if ours else 'there is none yet'}"
    return None
