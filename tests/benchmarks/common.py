"""What every benchmark writes: a JSON file of machine, versions, seeds, raw figures and claims, and a picture.

Owns: that form. Refuses to know what is measured. Called by every module of this folder.
"""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "learnd", "torch", "transformers", "peft", "trl", "accelerate", "evidently", "kafka-python", "sqlalchemy",
    "psycopg", "numpy", "scipy",
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A promise with its number: `holds` is value >= limit, or value <= limit where `least` is false."""

    claim: str
    value: float
    limit: float
    least: bool = True

    @property
    def holds(self) -> bool:
        """Whether the measured value keeps the promise."""
        return self.value >= self.limit if self.least else self.value <= self.limit


def write(
    out: Path, *, name: str, seeds: Sequence[int], raw: Mapping[str, Any], claims: Sequence[Claim]
) -> dict[str, Any]:
    """Write the benchmark's JSON and return it."""
    body = {
        "benchmark": name,
        "machine": machine(),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
        "seeds": list(seeds),
        "raw": dict(raw),
        "claims": [{**asdict(claim), "holds": claim.holds} for claim in claims],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return body


def picture(out: Path, draw: Callable[[Any], None], *, size: tuple[float, float] = (8.0, 4.5)) -> Path:
    """Draw on one axes and save it as PNG beside the JSON file; returns its path."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=size, constrained_layout=True)
    draw(axes)
    path = out.with_suffix(".png")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def told(claims: Sequence[Claim]) -> str:
    """The claims as lines for a person."""
    return "\n".join(
        f"{'holds ' if c.holds else 'BROKEN'}  {c.claim}: {c.value:g} ({'at least' if c.least else 'at most'} {c.limit:g})"
        for c in claims
    )


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()
