"""What a job takes is measured in its child, where it can be, and never guessed."""

import ctypes
from pathlib import Path
from typing import Any

import pytest

from daemon.energy import Cards, Packages
from daemon.jobs import JobSpec, folder_of, job_in, prepare, write_json
from daemon.jobs.usage import Meter, device_in, usage_in
from daemon.testing import InlineJobs
from tests.job_entries import crash, double

EARLIER: dict[str, Any] = {"seconds": 100.0, "cpu_seconds": 80.0, "gpu_seconds": 50.0, "joules": 7.0}


def zone(root: Path, name: str, kind: str, value: int, most: int = 1000) -> Path:
    folder = root / name
    folder.mkdir()
    for file, text in (("name", kind), ("energy_uj", str(value)), ("max_energy_range_uj", str(most))):
        (folder / file).write_text(f"{text}\n")
    return folder / "energy_uj"


def test_packages_are_added_up_over_a_wrap_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", "package-0", 900), zone(tmp_path, "intel-rapl:1", "package-1", 10)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 5)
    packages = Packages(tmp_path)
    first.write_text("100\n")
    second.write_text("30\n")
    core.write_text("500\n")
    assert packages.joules() == pytest.approx(220e-6)
    first.write_text("150\n")
    assert packages.joules() == pytest.approx(270e-6)
    second.unlink()
    assert packages.joules() is None, "half of it would be told as all"
    second.write_text("40\n")
    assert packages.joules() is None, "it may have wrapped meanwhile"


def test_energy_that_cannot_be_read_is_unknown_and_not_nought(tmp_path: Path) -> None:
    assert Packages(tmp_path).joules() is None
    one, other = zone(tmp_path, "intel-rapl:0", "package-0", 1), zone(tmp_path, "intel-rapl:1", "package-1", 1)
    one.unlink()
    assert Packages(tmp_path).joules() is None, "one of two"
    other.unlink()
    assert Packages(tmp_path).joules() is None
    assert Cards(Nvml(), {"CUDA_VISIBLE_DEVICES": ""}).joules() is None
    assert Cards(Nvml(deaf=True), {}).joules() is None


class Nvml:
    """NVML as its header has it: two GPUs, each of which takes its number plus one joule between two looks."""

    def __init__(self, deaf: bool = False) -> None:
        self.deaf, self.open, self.looks = deaf, 0, [0, 0]

    def nvmlInit_v2(self) -> int:
        self.open += 1
        return 0

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, number: Any) -> int:
        number._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:
        handle._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:
        handle._obj.value = 2
        return 0 if name == b"GPU-two" else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, value: Any) -> int:
        place = (handle.value or 0) - 1
        self.looks[place] += 1
        value._obj.value = 5000 + self.looks[place] * 1000 * (place + 1)
        return 3 if self.deaf else 0


@pytest.mark.parametrize(("visible", "joules"), [(None, 3.0), ("0", 1.0), ("1", 2.0), ("GPU-two", 2.0), ("0,1", 3.0)])
def test_only_the_gpus_that_the_job_may_use_are_counted(visible: str | None, joules: float) -> None:
    library = Nvml()
    cards = Cards(library, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert cards.joules() == pytest.approx(joules)
    assert library.open == 0, "opened as often as closed"


def test_a_card_that_is_not_there_makes_the_sum_unknown() -> None:
    assert Cards(Nvml(), {"CUDA_VISIBLE_DEVICES": "0,MIG-1"}).joules() is None


def test_what_all_attempts_took_is_added_up_and_a_gpu_counts_by_the_wall(tmp_path: Path) -> None:
    jobs = InlineJobs(tmp_path, lambda: 5.0)
    folder = folder_of(tmp_path, "k")
    jobs.start(spec(crash, 0, "gpu"))
    failed = usage_in(folder)
    assert failed is not None
    assert failed.gpu_seconds == failed.seconds > 0
    write_json(folder / "cost.json", EARLIER)
    jobs.start(spec(double, 1, "cpu"))
    whole = usage_in(folder)
    assert whole is not None
    assert 100.0 < whole.seconds < 101.0
    assert whole.cpu_seconds is not None
    assert whole.cpu_seconds > 80.0
    assert whole.gpu_seconds == 50.0, "a job on the processor takes no GPU"


def test_what_a_job_took_so_far_is_written_while_it_runs(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "k")
    prepare(folder, spec(double, 1, "cpu"), 5.0)
    write_json(folder / "cost.json", {**EARLIER, "joules": None})
    meter = Meter(job_in(folder)[0], every=0.01)
    while (told := usage_in(folder)) is None or told.seconds == EARLIER["seconds"]:
        spin()
    meter.stop()
    whole = usage_in(folder)
    assert whole is not None
    assert EARLIER["seconds"] < told.seconds < whole.seconds, "a child that was killed now has told this much"
    assert whole.cpu_seconds is not None
    assert told.cpu_seconds is not None
    assert whole.cpu_seconds >= told.cpu_seconds > EARLIER["cpu_seconds"]


def spin() -> int:
    return sum(range(10_000))


def test_a_job_names_what_it_ran_on(tmp_path: Path) -> None:
    jobs = InlineJobs(tmp_path, lambda: 5.0)
    assert device_in(folder_of(tmp_path, "k")) == ("", "")
    jobs.start(spec(double, 1, "cpu"))
    device, _ = device_in(folder_of(tmp_path, "k"))
    assert device.startswith("cpu: ")
    assert len(device) > len("cpu: ")


def spec(entry: Any, number: int, device: str) -> JobSpec:
    return JobSpec("k", "train", f"{entry.__module__}:{entry.__name__}", {"number": number}, device=device)
