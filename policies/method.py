"""Which repair: nothing, a LoRA update, full fine-tuning or a re-distillation, and why not the others.

Owns: the choice and its reason. Refuses to know how a method trains. Called by `policies.decide`.
"""

from dataclasses import dataclass, replace

from policies import costs
from policies.model import DriftReport, Snapshot, VersionView
from policies.policy import Policy
from policies.triggers import newer_teacher
from policies.words import listed

LARGE_SHARE = 0.5
UPDATES = {"lora": "LoRA update", "full": "full fine-tuning"}
CHEAPEST = "lora"


@dataclass(frozen=True, slots=True)
class Choice:
    """`method` is `nothing`, `lora`, `full`, `distill` or `echo`; `step` the first job's: `teacher` or `candidate`."""

    method: str
    step: str
    reason: str


def choose(snapshot: Snapshot, policy: Policy, *, weigh: bool = True) -> Choice:
    """The repair that the slot needs, of those that the policy allows and, where costs are weighed, is worth its cost.

    A re-distillation repairs what adapters can't: a stack of them, a teacher that is newer than its student, a drift of
    questions and answers at once. Else the LoRA update, which is cheaper. Its first step is always the teacher, which
    passes gates of its own before a student learns from it. Full fine-tuning is taken where the policy names it before
    the LoRA update, and where a re-distillation is needed but not to be had: it leaves no stack of adapters either.

    Cost and gain are those of earlier attempts (`policies.costs`); what is not known is not weighed, and the reason says
    so. But nothing other than a LoRA update takes a place only because nobody knows what it costs. `weigh` is false for a
    person's command, which is also the way to new experience.
    """
    against: list[str] = []
    for choice in _possible(snapshot, policy):
        if not weigh:
            return choice
        weighing = costs.weigh(choice.method, snapshot.experience, policy.costs)
        if weighing.dear:
            against.append(weighing.reason)
        elif against and choice.method != CHEAPEST and not costs.tried(choice.method, snapshot.experience):
            against.append(f"what {costs.NAMES[choice.method]} would cost and bring is not known")
        else:
            said = [reason for reason in (choice.reason, weighing.reason, *against) if reason]
            return replace(choice, reason="; ".join(said))
    if against:
        return Choice("nothing", "", f"{'; '.join(against)}; learnctl train starts it all the same")
    lacks = "the policy names no teacher" if "distill" in policy.method.allowed else "the policy allows no method"
    return Choice("nothing", "", f"nothing can be trained: {lacks}")


def _possible(snapshot: Snapshot, policy: Policy) -> list[Choice]:
    """What the policy allows, the one that the slot needs first."""
    allowed = policy.method.allowed
    can_distill = "distill" in allowed and bool(policy.method.teacher)
    why = _why_distill(snapshot, policy)
    updates = [name for name in allowed if name in UPDATES]
    if why and "full" in updates:
        updates = ["full", *(name for name in updates if name != "full")]
    because = _why_not_distill(snapshot, policy, why, can_distill)
    found = [Choice(name, "candidate", f"{UPDATES[name]}: {because}") for name in updates]
    if can_distill:
        reason = why or ("in place of an update" if found else "the policy allows no update")
        found.insert(0 if why else len(found), Choice("distill", "teacher", f"re-distillation: {reason}"))
    if not found and "echo" in allowed:
        found.append(Choice("echo", "candidate", "echo: the only method that the policy allows"))
    return found


def fresh(champion: VersionView | None, policy: Policy) -> bool:
    """Whether the next adapter starts anew instead of continuing the champion's: too many updates are stacked."""
    return champion is not None and champion.depth >= policy.method.max_depth


def large(report: DriftReport | None) -> bool:
    """Whether questions and answers both drifted, in at least half of the columns."""
    if report is None or not (report.judged and report.drifted) or report.kind != "both":
        return False
    columns = [column for column in report.columns if not column.slice]
    return bool(columns) and sum(column.drifted for column in columns) >= LARGE_SHARE * len(columns)


def _why_distill(snapshot: Snapshot, policy: Policy) -> str:
    if newer_teacher(snapshot, policy):
        return "the teacher was refreshed"
    depth = snapshot.champion.depth if snapshot.champion else 0
    if depth >= policy.method.distill_depth:
        return f"{depth} adapter updates are stacked, {policy.method.distill_depth} are allowed"
    if large(snapshot.evidence_drift or snapshot.drift):
        return "questions and answers drifted in most columns"
    return ""


def _why_not_distill(snapshot: Snapshot, policy: Policy, why: str, can_distill: bool) -> str:
    depth = snapshot.champion.depth if snapshot.champion else 0
    if why and not can_distill:
        lacks = "names no teacher" if "distill" in policy.method.allowed else "allows no re-distillation"
        return f"{why}, but the policy {lacks}"
    parts = [f"{depth} of {policy.method.distill_depth} adapter updates stacked"]
    if can_distill:
        parts += [why] if why else ["no newer teacher", "no drift that asks for more"]
    if fresh(snapshot.champion, policy):
        parts.append("starting a fresh adapter")
    return listed(parts)
