"""What an adapter is made of: its kind, and how large it is.

Owns: the values, and which of them make sense together. Refuses to know torch and PEFT. Called by `lora`, `adapters` and
`sizing`.
"""

from dataclasses import dataclass
from typing import Any

PROMPTED = ("prefix", "prompt")
KINDS = ("lora", "rslora", "dora", "pissa", *PROMPTED)
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Shape:
    """`kind`: one of KINDS. `targets`: "all-linear" or names of layers, comma-separated. `frozen`: lowest layers that get
    none. A prefix or prompt has `virtual_tokens` and none of the others. `grows`: every update adds a part of that rank.

    A `rank` of 0 and `targets` of "auto" are still to be found: they differ from nothing.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str = "all-linear"
    virtual_tokens: int = 16
    frozen: int = 0
    grows: bool = False

    @classmethod
    def of(cls, options: Any) -> "Shape":
        """What `lora.Options` ask for. Raises: ValueError, when they make no sense."""
        if options.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}")
        if options.rank != AUTO and (isinstance(options.rank, str) or options.rank < 1):
            raise ValueError('rank is at least 1, or "auto"')
        if min(options.alpha, options.virtual_tokens) < 1 or options.freeze_layers < 0:
            raise ValueError("alpha and virtual_tokens are at least 1, freeze_layers at least 0")
        if options.kind in PROMPTED and (options.freeze_layers or AUTO in (options.rank, options.targets)):
            raise ValueError(f'a {options.kind} has no layers of its own: no freeze_layers, no "auto"')
        rank = 0 if options.rank == AUTO else options.rank
        more = (options.alpha, options.dropout, options.targets, options.virtual_tokens, options.freeze_layers)
        return cls(options.kind, rank, *more, grows=options.olora > 0)

    @property
    def prompted(self) -> bool:
        """Whether it stands before every row instead of changing layers."""
        return self.kind in PROMPTED

    @property
    def before(self) -> int:
        """Tokens of the context that it takes."""
        return self.virtual_tokens if self.prompted else 0
