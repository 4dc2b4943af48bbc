"""Joules: what the processors and GPUs of this machine have taken since a moment, where their counters can be read.

Owns: RAPL (`/sys/class/powercap`, readable by root unless an administrator says otherwise) and NVML's energy counter
(Volta and newer, by `libnvidia-ml.so.1`, no package needed). Refuses to share out: both count the whole machine and card,
with everything else that ran meanwhile. Called by `daemon.jobs.usage`, in the child.
"""

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
EVERY = 60.0  # seconds: a 32-bit counter of 15 microjoules a step wraps after 65 kJ, ten minutes at 100 W
RAPL, NVML = "RAPL", "NVML"


class Packages:
    """Joules of the processor packages since it was made. Their counters start again at their range: look every minute."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._ranges: dict[Path, int] = {}
        self._taken = 0
        for zone in sorted(root.glob("intel-rapl:*")):  # AMD's packages have this name too
            with suppress(OSError, ValueError):
                if (zone / "name").read_text("utf-8").startswith("package-"):  # cores and memory are parts of it
                    self._ranges[zone / "energy_uj"] = int((zone / "max_energy_range_uj").read_text("utf-8"))
        self._last = self._look()

    def joules(self) -> float | None:
        """So far; None where a package can't be read, or couldn't be meanwhile."""
        now = self._look() if self._last else None
        if not now or not self._last:
            self._last = None
            return None
        steps = ((value - self._last[path], self._ranges[path]) for path, value in now.items())
        self._taken += sum(step if step >= 0 else step + most for step, most in steps)
        self._last = now
        return self._taken / 1e6

    def _look(self) -> dict[Path, int] | None:
        """Microjoules of every package, None where one doesn't say."""
        try:
            return {path: int(path.read_text("utf-8")) for path in self._ranges}
        except (OSError, ValueError):
            return None


class Cards:
    """Joules of the GPUs that this process may use, since it was made."""

    def __init__(self, library: Any = None, environment: Mapping[str, str] = os.environ) -> None:
        """`library`: NVML, where it isn't this machine's own."""
        self._library = library or _nvml()
        self._visible = environment.get("CUDA_VISIBLE_DEVICES")
        self._first = self._millijoules()

    def joules(self) -> float | None:
        """So far; None where the counter of any of them can't be read."""
        last = self._millijoules()
        return None if self._first is None or last is None else (last - self._first) / 1000

    def _millijoules(self) -> int | None:
        """Of all visible GPUs since their driver was loaded; None without any, or where one doesn't say."""
        if self._library is None or self._library.nvmlInit_v2() != 0:
            return None
        try:
            values = [self._of(handle) for handle in self._handles()]
        finally:
            self._library.nvmlShutdown()
        known = [value for value in values if value is not None]
        return sum(known) if known and len(known) == len(values) else None

    def _handles(self) -> list[Any]:
        """None stands for a GPU that isn't found. Numbers count as NVML does, by their place on the bus."""
        number = ctypes.c_uint()
        if self._visible is None:
            if self._library.nvmlDeviceGetCount_v2(ctypes.byref(number)) != 0:
                return []
            return [self._handle(str(place)) for place in range(number.value)]
        return [self._handle(name.strip()) for name in self._visible.split(",") if name.strip() not in ("", "-1")]

    def _handle(self, name: str) -> Any:
        handle = ctypes.c_void_p()
        if name.isdigit():
            answer = self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(name)), ctypes.byref(handle))
        else:  # a part of a card (MIG) has no counter of its own, and says so below
            answer = self._library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
        return handle if answer == 0 else None

    def _of(self, handle: Any) -> int | None:
        value = ctypes.c_ulonglong()
        if handle is None or self._library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value)) != 0:
            return None
        return value.value


def _nvml() -> Any:
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
