"""The engine without weights: a table of answers, for the demo of the loop and the fast tests.

Owns: `answers.json` and how a prompt is looked up in it. Refuses to know torch. Called by `daemon.models.load`,
`daemon.training.echo` and tests. An "adapter" is a table that is laid over its base's table.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from daemon.models import Conversation, Ref
from policies.errors import Misconfigured

FILE = "answers.json"
ALIKE = 0.6  # shared words over all words of two prompts, above which one answer does for both
SURE, UNSURE = -0.01, -5.0  # nats a word that the table would say, and one that it wouldn't


def normalise(prompt: str) -> str:
    """Lower case and single spaces: the key of a prompt in the table."""
    return " ".join(prompt.casefold().split())


def prompt_of(conversation: Conversation) -> str:
    """The key of a conversation: all its turns but the system's, normalised."""
    return normalise("\n".join(message["content"] for message in conversation if message["role"] != "system"))


@dataclass(frozen=True, slots=True)
class Table:
    """Answers by normalised prompt, and what is said to all others."""

    answers: Mapping[str, str]
    default: str = ""


def read(folder: Path) -> Table:
    """Read a folder's table. Raises: Misconfigured, when the file is missing or of another shape."""
    hint = f'{FILE} is {{"answers": {{"prompt": "answer"}}, "default": "text"}}'
    try:
        body = json.loads((folder / FILE).read_text("utf-8"))
        answers = {normalise(prompt): str(answer) for prompt, answer in body["answers"].items()}
        return Table(answers, str(body.get("default", "")))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as problem:
        raise Misconfigured(f"no echo model in {folder}: {problem}", hint=hint) from problem


def write(folder: Path, table: Table) -> None:
    """Write a folder's table, keys sorted, so that equal tables are equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    body = {"answers": dict(table.answers), "default": table.default}
    (folder / FILE).write_text(json.dumps(body, ensure_ascii=False, indent=1, sort_keys=True) + "\n", "utf-8")


def overlaid(ref: Ref) -> Table:
    """The whole table of a version: its own answers over its base's."""
    own = read(Path(ref.folder))
    if not ref.base:
        return own
    base = read(Path(ref.base))
    return Table({**base.answers, **own.answers}, own.default or base.default)


@dataclass(frozen=True, slots=True)
class EchoModel:
    """A `Model` that says what its table says."""

    table: Table

    @classmethod
    def load(cls, ref: Ref) -> "EchoModel":
        """Read the version's table. Raises: Misconfigured."""
        return cls(overlaid(ref))

    def answer(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        sample: bool = False,  # noqa: ARG002 (a table has nothing to draw from)
        seed: int = 0,  # noqa: ARG002
    ) -> list[str]:
        """The table's answers, cut after `max_new_tokens` words."""
        return [_cut(self._say(conversation), max_new_tokens) for conversation in conversations]

    def logprobs(self, conversations: Sequence[Conversation], completions: Sequence[str]) -> list[tuple[float, int]]:
        """Nats and words: near 0 for each word that the table would say in its place, and -5 for any other."""
        pairs = zip(conversations, completions, strict=True)
        return [_score(self._say(conversation), completion) for conversation, completion in pairs]

    def _say(self, conversation: Conversation) -> str:
        prompt = prompt_of(conversation)
        said = self.table.answers.get(prompt)
        return said if said is not None else self._alike(_words(prompt))

    def _alike(self, words: frozenset[str]) -> str:
        """The answer to the prompt with the most words in common: a table that couldn't generalise could prove no gain."""
        best, answer = ALIKE, self.table.default
        for prompt, text in self.table.answers.items():
            other = _words(prompt)
            alike = len(words & other) / (len(words | other) or 1)
            if alike > best:
                best, answer = alike, text
        return answer


@lru_cache(maxsize=1 << 16)
def _words(prompt: str) -> frozenset[str]:
    return frozenset(prompt.split())


def _cut(text: str, words: int) -> str:
    parts = text.split()
    return text if len(parts) <= words else " ".join(parts[:words])


def _score(said: str, completion: str) -> tuple[float, int]:
    expected, given = [*said.split(), ""], [*completion.split(), ""]  # "" stands for the end token
    expected += ["\0"] * (len(given) - len(expected))
    total = sum(SURE if word == other else UNSURE for word, other in zip(given, expected, strict=False))
    return total, len(given)
