"""A version as something that answers: which folder, by which engine.

Owns: `Ref` (where a version's files lie), the `Model` protocol, and the choice of the engine. Refuses to know what an
answer is worth (`daemon.probes`) and where a version came from (`daemon.registry`). Called by probes and targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from policies.errors import Misconfigured

Message = Mapping[str, str]
Conversation = Sequence[Message]

ENGINES = ("transformers", "echo")


@dataclass(frozen=True, slots=True)
class Ref:
    """A version's files: `folder` holds full weights, or an adapter when `base` names the folder of its exact base."""

    name: str
    folder: str
    base: str = ""
    engine: str = "transformers"

    def to_json(self) -> dict[str, str]:
        """Plain values for a job's inputs."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Ref":
        """The Ref that `to_json` wrote. Raises: Misconfigured, when a field is missing or unknown."""
        try:
            return cls(**value)
        except TypeError as problem:
            raise Misconfigured(
                f"not a model reference: {problem}", hint="a reference has name, folder, base and engine"
            ) from problem


class Model(Protocol):
    """A loaded version. A conversation is a list of {"role", "content"} that ends before the answer."""

    def answer(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int, sample: bool = False, seed: int = 0
    ) -> list[str]:
        """One answer a conversation, in their order: greedy, or drawn at temperature 1 from `seed`."""
        ...

    def logprobs(self, conversations: Sequence[Conversation], completions: Sequence[str]) -> list[tuple[float, int]]:
        """(sum of log-probabilities in nats, tokens) of each completion with its end token after its conversation."""
        ...


def load(ref: Ref, *, device: str = "cpu", quantisation: str = "") -> Model:
    """Load a version. `device`: cpu, gpu or any; `quantisation`: "" (as stored), nf4 or int8.

    Raises: Misconfigured (unknown engine, broken folder), Transient (a GPU is asked for and none is there).
    """
    if ref.engine == "echo":
        from daemon.echo_model import EchoModel

        return EchoModel.load(ref)
    if ref.engine == "transformers":
        from daemon.transformers_model import TransformersModel

        return TransformersModel.load(ref, device=device, quantisation=quantisation)
    raise Misconfigured(f"{ref.name}: unknown engine {ref.engine!r}", hint=f"one of {', '.join(ENGINES)}")
