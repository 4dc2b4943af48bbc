"""How far a training run is, how fast, and how long it will take.

Owns: the line that people see. Called by the training loops.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

EVERY = 0.5  # seconds between two lines


@dataclass(slots=True)
class Meter:
    """Tells `progress` at most twice a second: `title step/total, loss, tokens/s, time left`.

    `first` and `last` are the shares of the whole job that this run covers.
    """

    progress: Callable[[str, float | None], None]
    title: str
    first: float = 0.0
    last: float = 1.0
    began: float = field(default_factory=monotonic)
    told: float = 0.0
    start: int = -1

    def tell(
        self,
        step: int,
        total: int,
        *,
        tokens: int = 0,
        loss: float | None = None,
        parts: Mapping[str, float] | None = None,
    ) -> None:
        """Note that `step` of `total` is done, `tokens` having been read since the first note; `parts`: each objective's
        own loss, where there are several.
        """
        now = monotonic()
        if self.start < 0:
            self.start, self.began = step, now
        if now - self.told < EVERY and step < total:
            return
        self.told = now
        words = [f"{self.title} {step}/{total}"]
        if loss is not None:
            each = ", ".join(f"{name} {value:.3f}" for name, value in (parts or {}).items())
            words.append(f"loss {loss:.3f}" + (f" ({each})" if each else ""))
        if step > self.start:
            seconds = max(1e-6, now - self.began)
            if tokens:
                words.append(f"{tokens / seconds:,.0f} tokens/s")
            words.append(f"{_duration(seconds / (step - self.start) * (total - step))} left")
        self.progress(" · ".join(words), self.first + (self.last - self.first) * step / max(1, total))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
