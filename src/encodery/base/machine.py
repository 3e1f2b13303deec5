"""The machine: device, ranks, threads, memory, disk, measured peak, seeds. The only reader of the environment."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PEAK_SIZE = {"cpu": 1024, "cuda": 8192}
PEAK_REPEATS = 8
# M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h; the second is where glibc's own rule ends, at most.
KEEP_MEMORY = {-3: 2**30, -1: 2**31 - 1, -2: 2**26}
GIVE_BACK = {-3: 2**25, -1: 2**26, -2: 2**17}


def rank() -> int:
    """This process's number among all processes of a distributed run; 0 alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes a distributed run has; 1 alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its own machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def restart_count() -> int:
    """How often torchrun has started the processes of this run again, after one of them was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def device() -> torch.device:
    """The CUDA device of this rank where there is one, else the CPU."""
    import torch

    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def threads() -> int:
    """How many CPU threads this process may use: OMP_NUM_THREADS, else the cores it is allowed to run on."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))


def set_threads(count: int) -> None:
    """Use `count` threads for the mathematics of this process."""
    import torch

    torch.set_num_threads(count)


@contextlib.contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Within it this process keeps the memory it frees, for its next tensor, instead of giving it back to the system,
    whose fresh pages cost a fault each: a tenth to a quarter of a training step. At its end all that is free is given
    back. Does nothing where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    for option, value in KEEP_MEMORY.items():
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in GIVE_BACK.items():
            library.mallopt(option, value)
        library.malloc_trim(0)


def offline() -> bool:
    """Whether the user asked that nothing be fetched."""
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")


def terminal_width() -> int | None:
    """How wide what is printed shall be, by `COLUMNS`; None where that says nothing."""
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdigit() and int(given) else None


def api_keys() -> list[str] | None:
    """Keys that open a server of ours: ENCODERY_API_KEYS, separated by commas; None where it is not set."""
    given = os.environ.get("ENCODERY_API_KEYS")
    return None if given is None else [key for key in (part.strip() for part in given.split(",")) if key]


def environment_secret(name: str) -> str | None:
    """What the environment variable of that name holds, None where it is not set. For keys, which no file may hold."""
    return os.environ.get(name) or None


def cache_dir() -> Path:
    """Where measurements of this machine are kept: ENCODERY_CACHE, else the user's cache folder."""
    given = os.environ.get("ENCODERY_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "encodery"
    base.mkdir(parents=True, exist_ok=True)
    return base


def ray_address() -> str | None:
    """Where a Ray cluster is: RAY_ADDRESS, None where it is not set."""
    return os.environ.get("RAY_ADDRESS") or None


def set_ray_environment(local_only: bool) -> None:
    """What Ray reads when it is imported, for this process and those it begins: it reports nothing to anyone. `alone`:
    it listens on loopback only, to who has the user's token, and its workers do not stand behind all else here.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if local_only:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # There it is the default; it does the same here.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_worker_niceness", "0")


def memory_total() -> int:
    """Bytes of main memory, or of the control group's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(total, _control_group_limit() or total)


def memory_free() -> int:
    """Bytes of main memory that can be had without swapping."""
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return min(int(fields["MemAvailable"].split()[0]) * 1024, memory_total())


def _control_group_limit() -> int | None:
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return int(text) if text.isdigit() else None


def disk_free(path: str | Path) -> int:
    """Bytes free on the device that holds `path`, or its nearest existing parent."""
    folder = Path(path).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cpu_name() -> str:
    """The processor's name as the kernel gives it."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """The processor's instruction set flags (empty where the kernel does not list them)."""
    return frozenset((_cpu_field("flags") or _cpu_field("Features") or "").split())


def native_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16, AMX or ARM's BF16)."""
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
    """What a report says of the machine a figure was measured on."""
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
    """FLOP/s of a large square matrix product in `dtype`: the measured ceiling to which shares refer.

    The median of eight products after two warm-ups, or the highest such median this machine has shown before (kept in
    the cache folder per device, dtype and thread count): what else the machine does can only make it look slower.
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
    times = []
    for _ in range(PEAK_REPEATS + 2):
        start = time.perf_counter()
        torch.mm(left, right)
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times[2:])


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part: counter-based randomness, so that its state is its arguments."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
