"""Budget: what an answer of the version costs here, in time and space.

Owns: the four quantities and how they are taken. Refuses to know limits. Called by `daemon.evaluation`, which lets no
figure of this probe be remembered: a latency compares only with one taken beside it.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.probes import Item, Probed, folder_bytes
from policies.model import Measurement

SET = "budget"
FIGURES = ("latency_ms", "memory_bytes", "size_bytes", "tokens_per_second")
LOOSER = {"items": "lower", "repeats": "higher"}  # the fastest counts: each repeat more can only make it faster
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Options:
    """`items`: prompts that are timed, one by one. `repeats`: times each, of which the fastest counts."""

    items: int = 8
    repeats: int = 2

    def __post_init__(self) -> None:
        if self.items < 1 or self.repeats < 1:
            raise ValueError("items and repeats are 1 at least")


def measure(version: Probed, items: Sequence[Item], options: Options) -> list[Measurement]:
    """latency_ms (median over items, warm), tokens_per_second, size_bytes (with its base) and memory_bytes (peak).

    Nothing but the size is measured where there is no item.
    """
    folders = [Path(folder) for folder in (version.ref.folder, version.ref.base) if folder]
    values = {"size_bytes": float(folder_bytes(*folders))}
    timed = items[: options.items]
    if timed:
        seconds, said = _times(version, timed, options.repeats)
        tokens = sum(count for _, count in version.model.logprobs([item.prompt for item in timed], said))
        values["latency_ms"] = statistics.median(seconds) * 1000
        values["tokens_per_second"] = tokens / max(sum(seconds), 1e-9)
        values["memory_bytes"] = float(peak_memory())
    return [version.measured("budget", Item(SET, name, ()), value) for name, value in sorted(values.items())]


def forget_peak() -> None:
    """Start the peak of memory anew, before a version is loaded; where the kernel refuses, the older peak stays."""
    if torch := cuda():
        torch.cuda.reset_peak_memory_stats()
    try:
        CLEAR.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return


def peak_memory() -> int:
    """Peak bytes since `forget_peak`: of the GPU where one is used, else of the resident process."""
    if torch := cuda():
        return int(torch.cuda.max_memory_allocated())
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) * 1024


def _times(version: Probed, items: Sequence[Item], repeats: int) -> tuple[list[float], list[str]]:
    seconds, said = [], []
    for item in (items[0], *items):  # the first one once more in front: it warms caches and is left out
        taken = []
        for _ in range(repeats):
            start = version.stopwatch()
            (answer,) = version.model.answer([item.prompt], max_new_tokens=version.max_new_tokens)
            taken.append(version.stopwatch() - start)
        seconds.append(min(taken))
        said.append(answer)
    return seconds[1:], said[1:]


def cuda() -> Any:
    """Torch, where this process already works on a GPU with it."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None
