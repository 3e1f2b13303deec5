"""Batch costs: the seconds of a batch by its tokens on this machine, on all cores at once and with one batch per core.

Which of the two computes more tokens per second depends on the processor, the model, the runtime and how much waits.
So it is measured with the model's own work at the first start, for some seconds, and kept in the cache folder. A file
is valid for one machine, model, runtime and set of versions. If it cannot be read, the costs are measured again; if it
cannot be written, that is reported.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from encodery.base import machine
from encodery.base.artifact import atomic_write
from encodery.base.errors import DiskFull, InputError
from encodery.serve.served_model import InferenceRequest, ServedModel

FORMAT = 2
FOLDER = "serve-costs"
TOKENS = (16, 64, 256, 1024, 2048)
ROUNDS = 3  # The fastest of them counts; one more before them is for warming up.
MAX_SECONDS = 8.0  # Of measuring a model; sizes that would take longer are not measured.
BUSY_RATIO = 0.6  # If the smallest batch takes less than this part of its stored time, the machine was busy then.
NEAR_BEST = 0.95  # Of the best speed is good enough: a smaller batch answers earlier.
LIBRARIES = ("encodery", "torch", "onnxruntime", "openvino")


@dataclass(frozen=True)
class BatchCosts:
    """`all_cores[i]`: seconds of a batch of `tokens[i]` on all `cores`; `per_core[i]`: seconds if each core has such a
    batch, empty for a model whose batches cannot run at the same time."""

    cores: int
    tokens: tuple[int, ...]
    all_cores: tuple[float, ...]
    per_core: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raises `ValueError` for numbers that cannot have been measured."""
        numbers = (*self.tokens, *self.all_cores, *self.per_core)
        sizes = {len(self.tokens), len(self.all_cores), len(self.per_core) or len(self.tokens)}
        rising = all(a < b for a, b in zip(self.tokens, self.tokens[1:], strict=False))
        if sizes != {len(self.tokens)} or not self.tokens or not rising or self.cores < 1:
            raise ValueError("batch costs: a column is too short, or the sizes do not rise")
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise ValueError("batch costs: a number is not positive")

    @property
    def batch_tokens(self) -> int:
        """The smallest batch that is near the best speed."""
        best = self.speed
        return next(size for size in self.tokens if max(self._rates(size)) >= NEAR_BEST * best)

    @property
    def speed(self) -> float:
        """The highest number of tokens per second."""
        return max(rate for size in self.tokens for rate in self._rates(size))

    def next_batch(self, waiting: int, divisible: bool, max_tokens: int) -> tuple[int, bool]:
        """The tokens of the next batch, at most `max_tokens`, if `waiting` tokens wait, and whether it runs on one core
        beside others. `divisible`: whether the waiting tokens can be divided among several batches."""
        whole, part = min(waiting, max_tokens), min(-(-waiting // self.cores), max_tokens)
        if not self.per_core or not divisible:
            return whole, False
        speed_all_cores = whole / self._seconds(self.all_cores, whole)
        speed_per_core = min(waiting, self.cores * part) / self._seconds(self.per_core, part)
        return (part, True) if speed_per_core > speed_all_cores else (whole, False)

    def _rates(self, size: int) -> list[float]:
        index = self.tokens.index(size)
        return [size / self.all_cores[index], *(self.cores * size / one for one in self.per_core[index : index + 1])]

    def _seconds(self, column: Sequence[float], tokens: int) -> float:
        """Interpolated between two sizes; in proportion beyond the last size, that of the first size below it."""
        index = bisect.bisect_left(self.tokens, tokens)
        if index == 0:
            return column[0]
        if index == len(self.tokens):
            return column[-1] * tokens / self.tokens[-1]
        low, high = self.tokens[index - 1 : index + 1]
        return column[index - 1] + (column[index] - column[index - 1]) * (tokens - low) / (high - low)


@dataclass(frozen=True)
class CostProbe:
    """How to measure a model: `request(words)` is a request with one text of that many words; `depends_on`: what the
    costs depend on, beside the machine."""

    request: Callable[[int], InferenceRequest]
    depends_on: Mapping[str, Any]


def measured_costs(
    models: Mapping[str, ServedModel], probes: Mapping[str, CostProbe], cores: int, report: Callable[[str], None]
) -> dict[str, BatchCosts]:
    """The costs of each model with a probe that it can read. `report` gets each problem once."""
    reported: set[str] = set()

    def report_once(text: str) -> None:
        if text not in reported:
            reported.add(text)
            report(text)

    costs = {}
    for name, probe in probes.items():
        with contextlib.suppress(InputError):
            costs[name] = load_or_measure(models[name], probe, cores, report_once)
    return costs


def load_or_measure(model: ServedModel, probe: CostProbe, cores: int, report: Callable[[str], None]) -> BatchCosts:
    """The costs stored for this machine and probe; else they are measured and stored. `report` gets the problems."""
    key = _key(probe, cores)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:24]
    path: Path | None = None
    try:
        path = machine.cache_dir() / FOLDER / f"{digest}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            stored = _read(path)
            if not _faster(model, probe, stored):
                return stored
            report("The machine was busy when batch costs were measured; they are measured again.")
    except OSError as error:
        report(f"Batch costs are not kept: {error.filename}: {error.strerror}.")
        path = None
    except (ValueError, TypeError, KeyError) as error:
        report(f"{path}: is not a table of batch costs ({error}); they are measured again.")
    report("Batch costs of this machine are measured; this happens once and takes some seconds.")
    costs = measure(model, probe, cores)
    if path is not None:
        _write(path, key, costs, report)
    return costs


def _key(probe: CostProbe, cores: int) -> dict[str, Any]:
    key = {"format": FORMAT, "cpu": machine.cpu_name(), "cores": cores, "model": dict(probe.depends_on)}
    key["versions"] = {name: installed for name in LIBRARIES if (installed := _version(name)) is not None}
    return key


def _write(path: Path, key: dict[str, Any], costs: BatchCosts, report: Callable[[str], None]) -> None:
    try:
        atomic_write(path, json.dumps({"key": key, "costs": asdict(costs)}, indent=1, default=str) + "\n")
    except (OSError, DiskFull) as error:
        reason = error.strerror if isinstance(error, OSError) else "no space left on the device"
        if not path.is_file():  # Otherwise another worker was first.
            report(f"Batch costs are not kept: {path.parent}: {reason}.")


def measure(model: ServedModel, probe: CostProbe, cores: int, max_seconds: float = MAX_SECONDS) -> BatchCosts:
    """The costs of a model, measured on batches of rising size while there is time."""
    single_threaded, deadline = model.single_threaded(), time.perf_counter() + max_seconds
    tokens, all_cores, per_core = [], [], []
    for size in TOKENS:
        units, count = _units(model, probe, size)
        if len(units) > model.max_units:
            break
        started = time.perf_counter()
        all_cores.append(_seconds(model, units, 1, cores))
        if cores > 1 and not model.exclusive:
            per_core.append(_seconds(single_threaded, units, cores, 1))
        tokens.append(count)
        now = time.perf_counter()
        if now + (now - started) * (max(TOKENS) / TOKENS[0]) ** (1 / len(TOKENS)) > deadline:
            break
    return BatchCosts(cores, tuple(tokens), tuple(all_cores), tuple(per_core))


def _faster(model: ServedModel, probe: CostProbe, stored: BatchCosts) -> bool:
    """Whether the smallest batch takes so much less time than stored that the other numbers cannot be right either."""
    units = _units(model, probe, TOKENS[0])[0]
    return _seconds(model, units, 1, stored.cores) < BUSY_RATIO * stored.all_cores[0]


def _units(model: ServedModel, probe: CostProbe, size: int) -> tuple[list[Any], int]:
    """Units of texts of 30 words, or of 14 words if that is too much, and their tokens: about `size` of them."""
    tokenized = model.tokenize(probe.request(30))
    tokenized = tokenized if sum(tokenized.tokens) <= size else model.tokenize(probe.request(14))
    times = max(1, size // max(sum(tokenized.tokens), 1))
    return [*tokenized.units] * times, sum(tokenized.tokens) * times


def _seconds(model: ServedModel, units: Sequence[Any], concurrent: int, threads: int) -> float:
    """The time until `concurrent` batches that start together are all done, each with its own `threads`."""
    barrier = threading.Barrier(concurrent)

    def run() -> None:
        barrier.wait()
        model.run(units)

    with ThreadPoolExecutor(concurrent, initializer=machine.set_threads, initargs=(threads,)) as pool:
        rounds = []
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            for future in [pool.submit(run) for _ in range(concurrent)]:
                future.result()
            rounds.append(time.perf_counter() - started)
    return min(rounds[1:])


def _read(path: Path) -> BatchCosts:
    table = json.loads(path.read_text(encoding="utf-8"))["costs"]
    columns = {name: tuple(table[name]) for name in ("tokens", "all_cores", "per_core")}
    return BatchCosts(int(table["cores"]), **columns)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
