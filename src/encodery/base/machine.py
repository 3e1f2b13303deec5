"""The machine: device, ranks, threads, memory, disk, measured peak performance and seeds.

This is the only module that reads environment variables.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PEAK_SIZE = {"cpu": 1024, "cuda": 8192}  # Rows of the square matrices with which the peak is measured.
PEAK_REPEATS = 8
PEAK_SECONDS = 1.0  # After which no product is repeated: a CPU without fp16 takes 2 s for one.
# M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h.
RETAIN_MEMORY = {-3: 2**30, -1: 2**31 - 1, -2: 2**26}
# The largest values that glibc's own dynamic thresholds reach.
RELEASE_MEMORY = {-3: 2**25, -1: 2**26, -2: 2**17}


def rank() -> int:
    """Return the number of this process among all processes of a distributed run; 0 for a single process."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes of a distributed run; 1 for a single process."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return the number of this process among those on its own machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def restart_count() -> int:
    """Return how often torchrun has restarted the processes of this run after one of them was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def device() -> torch.device:
    """Return the CUDA device of this rank, or the CPU if there is no CUDA device."""
    import torch

    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def threads() -> int:
    """Return how many CPU threads this process may use: OMP_NUM_THREADS, or the number of cores it may run on."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdigit() and int(value) > 0 else len(os.sched_getaffinity(0))


def set_threads(count: int) -> None:
    """Set the number of threads that torch uses for CPU operations in this process."""
    import torch

    torch.set_num_threads(count)


@contextlib.contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Make malloc keep freed memory for the next tensor instead of returning it to the operating system.

    Every new page from the operating system costs a page fault; without this, page faults take a tenth to a quarter of
    a training step. Free memory is returned when the block ends. It has no effect if the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    for option, value in RETAIN_MEMORY.items():
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in RELEASE_MEMORY.items():
            library.mallopt(option, value)
        library.malloc_trim(0)


def terminal_width() -> int | None:
    """Return the width of printed output in characters, as set by COLUMNS; None if it is not set."""
    value = os.environ.get("COLUMNS", "")
    return int(value) if value.isdigit() and int(value) else None


def api_keys() -> list[str] | None:
    """Return the keys that clients of the server must send: ENCODERY_API_KEYS, comma-separated; None if not set."""
    value = os.environ.get("ENCODERY_API_KEYS")
    return None if value is None else [key for key in (item.strip() for item in value.split(",")) if key]


def environment_secret(name: str) -> str | None:
    """Return the value of an environment variable, None if it is not set. For keys that must not be in any file."""
    return os.environ.get(name) or None


def cache_dir() -> Path:
    """Return the folder for measurements of this machine: ENCODERY_CACHE, or the user's cache folder. Creates it."""
    value = os.environ.get("ENCODERY_CACHE")
    folder = Path(value) if value else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "encodery"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ray_address() -> str | None:
    """Return the address of a Ray cluster, RAY_ADDRESS; None if it is not set."""
    return os.environ.get("RAY_ADDRESS") or None


def set_ray_environment(local_only: bool) -> None:
    """Set the environment variables that Ray reads on import, for this process and its children.

    Usage statistics are switched off. With `local_only`, Ray listens on loopback only, requires the user's token, and
    its workers run at normal priority.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if local_only:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Its default on those systems.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_worker_niceness", "0")


def memory_total() -> int:
    """Return the bytes of main memory, or the limit of the control group if it is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(total, _control_group_limit() or total)


def memory_free() -> int:
    """Return the bytes of main memory that can be allocated without swapping."""
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return min(int(fields["MemAvailable"].split()[0]) * 1024, memory_total())


def _control_group_limit() -> int | None:
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return int(text) if text.isdigit() else None


def disk_free(path: str | Path) -> int:
    """Return the bytes free on the device of `path`, or of its nearest existing parent folder."""
    folder = Path(path).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cpu_name() -> str:
    """Return the name of the processor, as the kernel reports it."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Return the instruction set flags of the processor; empty if the kernel does not list them."""
    return frozenset((_cpu_field("flags") or _cpu_field("Features") or "").split())


def native_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16, AMX or ARM's BF16)."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_field(name: str) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def describe() -> dict[str, str | int]:
    """Return a description of the machine, stored with everything that is measured on it."""
    import torch

    where = device()
    return {
        "kind": where.type,
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else cpu_name(),
        "threads": threads(),
        "memory": memory_total(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def matmul_peak(dtype: torch.dtype, target_device: torch.device | None = None) -> float:
    """Return the FLOP/s of a large square matrix product: the measured peak that utilisation refers to.

    It is the median of eight products after two warm-up products (fewer if they are slow), or the highest such median
    that was measured on this machine before (stored in the cache folder per device, dtype and thread count), since
    other load on the machine can only lower a measurement.
    """
    import torch

    target_device = target_device or device()
    name = torch.cuda.get_device_name(target_device) if target_device.type == "cuda" else cpu_name()
    key = f"{name}|{torch.__version__}|{dtype}|{torch.get_num_threads()}"
    store = cache_dir() / "matmul_peak.json"
    measured = _measure_peak(dtype, target_device)
    known = _read_peaks(store)
    if measured > known.get(key, 0.0):
        known[key] = measured
        draft = store.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(known, indent=1), encoding="utf-8")
        draft.replace(store)
    return known[key]


def seconds_of(function: Callable[[], object], where: torch.device) -> float:
    """Return the seconds that a call takes, the work that it leaves to the device `where` included."""
    import torch

    start = time.perf_counter()
    function()
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter() - start


def _read_peaks(store: Path) -> dict[str, float]:
    try:
        return {str(k): float(v) for k, v in json.loads(store.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _measure_peak(dtype: torch.dtype, where: torch.device) -> float:
    import torch

    size = PEAK_SIZE[where.type]
    generator = torch.Generator(where).manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator, device=where).to(dtype) for _ in range(2))
    times: list[float] = []
    while len(times) < PEAK_REPEATS + 2 and sum(times[1:]) < PEAK_SECONDS:
        times.append(seconds_of(lambda: torch.mm(left, right), where))
    return 2 * size**3 / statistics.median(times[2:] or times[1:])


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every argument.

    Random numbers drawn from such seeds are counter-based: their state consists of the arguments alone.
    """
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
