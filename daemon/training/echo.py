"""The method without weights: what users said goes into the table of answers.

Owns: how corrections, pairs and ratings change a table. Refuses to know torch. Called in the child by `daemon.jobs`,
for the fast tests and for trying learnd out.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from daemon.echo_model import Table, overlaid, prompt_of, read, write
from daemon.jobs import Job
from daemon.models import Ref
from daemon.training import examples as lines
from daemon.training import parse
from policies.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Options:
    """`maximum`: examples that are learned from, in file order (0: all)."""

    maximum: int = 0

    def __post_init__(self) -> None:
        if self.maximum < 0:
            raise ValueError("maximum is negative")


def train(job: Job) -> dict[str, Any]:
    """Lay what the examples ask for over the champion's table: of several answers to a prompt the heaviest wins.

    An answer voted down gives way to the default unless something outweighs the vote.
    Raises: Refused, Misconfigured, Corrupt.
    """
    begin = perf_counter()
    options = parse(Options, job.inputs.get("options", {}))
    champion, base = Ref.from_json(job.inputs["champion"]), Ref.from_json(job.inputs["base"])
    if champion.engine != "echo":
        raise Misconfigured(f"{champion.name} is no echo model", hint="leave echo out of the policy's methods")
    examples = lines.read(job.inputs["dataset"])
    used = examples[: options.maximum] if options.maximum else examples
    job.progress(f"learning {len(used)} examples", 0.0)
    whole = job.inputs.get("step") == "teacher" or job.inputs.get("method") == "distill"
    depth = 0 if whole else int(job.inputs.get("depth", 0))
    said = overlaid(champion)
    table = _learn(said if whole else _adapter(champion, depth), said, used)
    write(job.output, table)
    job.progress(f"learned {len(used)} examples", 1.0)
    return {
        "kind": "base" if whole else "adapter",
        "engine": "echo",
        "base": "" if whole else base.name,
        "depth": 0 if whole else depth + 1,
        "method": "echo",
        "seconds": perf_counter() - begin,
        "tokens": sum(len(example.completion.split()) for example in used),
        "metrics": {"examples": len(used), "answers": len(table.answers)},
    }


def _adapter(champion: Ref, depth: int) -> Table:
    """The table that an update continues: the champion's own layer, or an empty one on a fresh start."""
    return read(Path(champion.folder)) if champion.base and depth else Table({})


def _learn(before: Table, said: Table, examples: tuple[lines.Example, ...]) -> Table:
    """`before` with what the examples ask for; `said` is all that the champion says, from its base too."""
    votes: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for example in examples:
        tally = votes[prompt_of(example.messages)]
        down = example.objective == "kto" and not example.label
        tally[example.completion] += -example.weight if down else example.weight
        if example.rejected:
            tally[example.rejected] -= example.weight
    answers = dict(before.answers)
    for prompt, tally in votes.items():
        best = max(sorted(tally), key=lambda answer: tally[answer])
        if tally[best] > 0:
            answers[prompt] = best
        elif said.answers.get(prompt) in tally:
            answers[prompt] = said.default
    return Table(answers, before.default)
