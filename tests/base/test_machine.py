"""The machine and the run log."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from encodery.base import machine
from encodery.base.errors import MissingExtra
from encodery.base.extras import require
from encodery.base.run_log import RunLog, read_log, truncate_log


def test_ranks_and_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert (machine.rank(), machine.world_size(), machine.threads()) == (3, 4, 7)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert machine.threads() >= 1


def test_the_highest_peak_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setenv("ENCODERY_CACHE", str(tmp_path))
    monkeypatch.setitem(machine.PEAK_SIZE, "cpu", 64)
    first = machine.matmul_peak(torch.float32)
    assert first > 1e6
    monkeypatch.setattr(machine, "_measure_peak", lambda *_: first / 2)
    assert machine.matmul_peak(torch.float32) == first
    monkeypatch.setattr(machine, "_measure_peak", lambda *_: first * 2)
    assert machine.matmul_peak(torch.float32) == first * 2


@pytest.mark.parametrize(("seconds", "num_products"), [(0.001, 10), (0.6, 3), (2.0, 2)])
def test_slow_products_are_not_repeated(monkeypatch: pytest.MonkeyPatch, seconds: float, num_products: int) -> None:
    import torch

    times = [5.0] + [seconds] * 9  # The first one includes the start of the device.
    monkeypatch.setitem(machine.PEAK_SIZE, "cpu", 64)
    monkeypatch.setattr(machine, "seconds_of", lambda *_: times.pop(0))
    assert machine._measure_peak(torch.float32, torch.device("cpu")) == pytest.approx(2 * 64**3 / seconds)
    assert len(times) == 10 - num_products


def test_memory_and_disk_are_plausible(tmp_path: Path) -> None:
    assert 0 < machine.memory_free() <= machine.memory_total()
    assert machine.disk_free(tmp_path / "not" / "yet") > 0
    assert machine.cpu_name()


def test_derived_seeds_differ_by_every_argument() -> None:
    seeds = {machine.derive_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert machine.derive_seed(1, 2) == machine.derive_seed(1, 2)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_missing_extra_names_the_pip_command() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'encodery\[serve\]'"):
        require("no_such_package_at_all", "serve")
    assert require("json", "base").dumps([]) == "[]"


def test_the_log_survives_an_incomplete_line_and_keeps_precision(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path) as log:
        log.write(step=1, loss=0.1 + 0.2)
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_log(path) == [{"step": 1, "loss": 0.1 + 0.2}]
    with RunLog(path) as log:
        log.write(step=2, loss=1.0)
        log.write(step=3, loss=1.0)
    truncate_log(path, lambda line: line["step"] <= 2)
    assert [line["step"] for line in read_log(path)] == [1, 2]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be configured to retain memory")
def test_retained_memory_causes_no_page_faults() -> None:
    script = (
        "import resource, torch\n"
        "from encodery.base import machine\n"
        "def faults(size=2**23):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20):\n"
        "        torch.ones(size)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "first = faults()\n"
        "with machine.retain_freed_memory():\n"
        "    faults()\n"
        "    within = faults()\n"
        "    resident = int(open('/proc/self/statm').read().split()[1])\n"
        "released = resident - int(open('/proc/self/statm').read().split()[1])\n"
        # Four times as large as the retained blocks, since a released block might be reused for the same size.
        "print(first, within, released, faults(2**25))\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    first, within, released, after = map(int, answer.stdout.split())
    assert first > 20 * 1000
    assert within < first / 100
    assert released > 2**23 * 4 // 4096 / 2  # Pages of the tensor that were released.
    assert after > 4 * first / 2
