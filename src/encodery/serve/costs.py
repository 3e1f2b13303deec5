"""What a batch costs on this machine: seconds by tokens, on all cores at once, and with a batch on each core.

Which of the two gives more tokens a second depends on processor, model, runtime and how much waits, so it is measured
with the lane's own work at the first start, in a few seconds, and kept in the cache folder. A file is of one machine,
model, runtime and versions; where it cannot be read costs are measured anew, where it cannot be written that is told.
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

FORMAT = 1
FOLDER = "serve-costs"
TOKENS = (16, 64, 256, 1024, 2048)
ROUNDS = 3  # of which the fastest counts, after one to warm up
MAX_SECONDS = 8.0  # of measuring a lane; what would take it beyond is not measured
BUSY = 0.6  # of a stored time, below which the machine was busy when that was measured
NEAR = 0.95  # of the best speed is as good: a smaller batch answers earlier
LIBRARIES = ("encodery", "torch", "onnxruntime", "openvino")


@dataclass(frozen=True)
class BatchCosts:
    """`wide[i]` seconds of a batch of `tokens[i]` on all `cores`; `narrow[i]` when each core has such a batch, none
    for a lane whose batches cannot stand side by side."""

    cores: int
    tokens: tuple[int, ...]
    all_cores: tuple[float, ...]
    per_core: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raises `ValueError` for figures that cannot have been measured."""
        figures = (*self.tokens, *self.all_cores, *self.per_core)
        sizes = {len(self.tokens), len(self.all_cores), len(self.per_core) or len(self.tokens)}
        rising = all(a < b for a, b in zip(self.tokens, self.tokens[1:], strict=False))
        if sizes != {len(self.tokens)} or not self.tokens or not rising or self.cores < 1:
            raise ValueError("costs: a column is short, or the sizes do not rise")
        if not all(math.isfinite(figure) and figure > 0 for figure in figures):
            raise ValueError("costs: a figure is not positive")

    @property
    def batch_tokens(self) -> int:
        """The least batch that is near the best speed."""
        best = self.speed
        return next(size for size in self.tokens if max(self._rates(size)) >= NEAR * best)

    @property
    def speed(self) -> float:
        """Tokens a second at best."""
        return max(rate for size in self.tokens for rate in self._rates(size))

    def next_batch(self, waiting: int, divisible: bool, most: int) -> tuple[int, bool]:
        """Tokens of the next batch, at most `most`, where so many wait, and whether it is to run on one core beside
        others. `divisible`: whether they can be shared at all."""
        whole, share = min(waiting, most), min(-(-waiting // self.cores), most)
        if not self.per_core or not divisible:
            return whole, False
        together = whole / self._seconds(self.all_cores, whole)
        apart = min(waiting, self.cores * share) / self._seconds(self.per_core, share)
        return (share, True) if apart > together else (whole, False)

    def _rates(self, size: int) -> list[float]:
        place = self.tokens.index(size)
        return [size / self.all_cores[place], *(self.cores * size / one for one in self.per_core[place : place + 1])]

    def _seconds(self, column: Sequence[float], tokens: int) -> float:
        """Between two sizes on the line through them; in proportion beyond the last, the first before the first."""
        place = bisect.bisect_left(self.tokens, tokens)
        if place == 0:
            return column[0]
        if place == len(self.tokens):
            return column[-1] * tokens / self.tokens[-1]
        low, high = self.tokens[place - 1 : place + 1]
        return column[place - 1] + (column[place] - column[place - 1]) * (tokens - low) / (high - low)


@dataclass(frozen=True)
class CostProbe:
    """How to measure a lane: `asked(words)` is a request of one text of so many words; `depends`: on what its costs
    depend, beside the machine."""

    request: Callable[[int], InferenceRequest]
    depends_on: Mapping[str, Any]


def measured_costs(
    lanes: Mapping[str, ServedModel], trials: Mapping[str, CostProbe], cores: int, said: Callable[[str], None]
) -> dict[str, BatchCosts]:
    """Of each lane that there is a trial for, where it can read that. A trouble of all of them is told once."""
    heard: set[str] = set()

    def once(text: str) -> None:
        if text not in heard:
            heard.add(text)
            said(text)

    found = {}
    for name, trial in trials.items():
        with contextlib.suppress(InputError):
            found[name] = load_or_measure(lanes[name], trial, cores, once)
    return found


def load_or_measure(lane: ServedModel, trial: CostProbe, cores: int, said: Callable[[str], None]) -> BatchCosts:
    """As stored for this machine and what the trial names, else measured and stored. `said` is told what went wrong."""
    key = {"format": FORMAT, "cpu": machine.cpu_name(), "cores": cores, "lane": dict(trial.depends_on)}
    key["versions"] = {name: found for name in LIBRARIES if (found := _version(name)) is not None}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:24]
    path: Path | None = None
    try:
        path = machine.cache_dir() / FOLDER / f"{digest}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            stored = _read(path)
            if not _faster(lane, trial, stored):
                return stored
            said("The machine was busy when batches were measured; it is done again.")
    except OSError as error:
        said(f"Costs of batches are not kept: {error.filename}: {error.strerror}.")
        path = None
    except (ValueError, TypeError, KeyError) as error:
        said(f"{path}: is no table of costs ({error}); they are measured again.")
    said("What batches cost on this machine is measured; this is done once and takes some seconds.")
    table = measure(lane, trial, cores)
    if path is not None:
        try:
            atomic_write(path, json.dumps({"key": key, "costs": asdict(table)}, indent=1, default=str) + "\n")
        except (OSError, DiskFull) as error:
            why = error.strerror if isinstance(error, OSError) else "no space left on the device"
            if not path.is_file():  # Else another worker was first.
                said(f"Costs of batches are not kept: {path.parent}: {why}.")
    return table


def measure(lane: ServedModel, trial: CostProbe, cores: int, most_seconds: float = MAX_SECONDS) -> BatchCosts:
    """A lane's costs, by running batches, sizes rising while there is time."""
    narrow, ends = lane.single_threaded(), time.perf_counter() + most_seconds
    tokens, wide, beside = [], [], []
    for size in TOKENS:
        units, count = _units(lane, trial, size)
        if len(units) > lane.max_units:
            break
        begun = time.perf_counter()
        wide.append(_seconds(lane, units, 1, cores))
        if cores > 1 and not lane.exclusive:
            beside.append(_seconds(narrow, units, cores, 1))
        tokens.append(count)
        now = time.perf_counter()
        if now + (now - begun) * (max(TOKENS) / TOKENS[0]) ** (1 / len(TOKENS)) > ends:
            break
    return BatchCosts(cores, tuple(tokens), tuple(wide), tuple(beside))


def _faster(lane: ServedModel, trial: CostProbe, known: BatchCosts) -> bool:
    """Whether the smallest batch takes so much less than it did that the other figures cannot hold either."""
    units = _units(lane, trial, TOKENS[0])[0]
    return _seconds(lane, units, 1, known.cores) < BUSY * known.all_cores[0]


def _units(lane: ServedModel, trial: CostProbe, size: int) -> tuple[list[Any], int]:
    """Units of texts of 30 words, of a shorter one where that is too much, and their tokens: about `size`."""
    reading = lane.tokenize(trial.request(30))
    reading = reading if sum(reading.tokens) <= size else lane.tokenize(trial.request(14))
    times = max(1, size // max(sum(reading.tokens), 1))
    return [*reading.units] * times, sum(reading.tokens) * times


def _seconds(lane: ServedModel, units: Sequence[Any], beside: int, threads: int) -> float:
    """Until so many batches that are begun together are all done, each with so many threads."""
    gate = threading.Barrier(beside)

    def run() -> None:
        gate.wait()
        lane.run(units)

    with ThreadPoolExecutor(beside, initializer=machine.set_threads, initargs=(threads,)) as pool:
        taken = []
        for _ in range(ROUNDS + 1):
            begun = time.perf_counter()
            for one in [pool.submit(run) for _ in range(beside)]:
                one.result()
            taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def _read(path: Path) -> BatchCosts:
    table = json.loads(path.read_text(encoding="utf-8"))["costs"]
    columns = {name: tuple(table[name]) for name in ("tokens", "wide", "narrow")}
    return BatchCosts(int(table["cores"]), **columns)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
