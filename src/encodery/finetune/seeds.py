"""The same fine-tuning under several seeds, and mean ± standard deviation of its figures: one run tells little.

Seeds change the order of rows, dropout and the head's first weights (arXiv:2002.06305). The split of the data stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encodery.base.artifact import atomic_write
from encodery.base.errors import InputError, SettingsError
from encodery.base.settings import merge
from encodery.train.launch import check_empty, resume, start
from encodery.train.loop import FIGURES, RECIPE, RunResult
from encodery.train.settings import HARMLESS

if TYPE_CHECKING:
    from rich.console import Console

SUMMARY = "seeds.json"
NAMED = ("dev_", "tuned_dev_", "test_")


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of a figure over runs, and its `values`."""

    mean: float
    deviation: float
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.deviation:.4f}"


def spread(values: Sequence[float]) -> Spread:
    """Of one figure. The deviation of a single value is not a number."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Spread(float(np.mean(values)), deviation, tuple(values))


def spreads(figures: Sequence[Mapping[str, Any]], names: Collection[str] = ()) -> dict[str, Spread]:
    """Of every figure of quality that all runs have, by name: those of a split, and those of these `names`."""
    shared = set[str].intersection(*(set(one) for one in figures))
    chosen = sorted(name for name in shared if name.startswith(NAMED) or name in names)
    return {name: spread([one[name] for one in figures]) for name in chosen}


def run_seeds(
    recipe: Mapping[str, Any], out: Path, count: int, console: Console | None = None, names: Collection[str] = ()
) -> dict[str, Spread] | None:
    """Runs of a recipe in `out/seed-N`, from its own seed on; what is finished is not run again, what was interrupted
    goes on. Writes `out/seeds.json` with the spreads of the figures, those of `names`, which bear no split's, besides.
    An interrupted run leaves it unwritten, and None is returned.

    Raises `SettingsError` for fewer than two seeds, `InputError` where a folder holds a run of other settings.
    """
    if count < 2:
        raise SettingsError(f"seeds = {count}: a spread wants at least 2 runs, better 3 or more.")
    first = int(recipe["train"]["seed"])
    figures = []
    for seed in range(first, first + count):
        folder, own = out / f"seed-{seed}", merge(recipe, {"train": {"seed": seed}})
        _check_same(folder, own)
        if not _finished(folder):
            if console is not None:
                console.print(f"seed {seed}, run {seed - first + 1} of {count}", highlight=False)
            result = _run(own, folder, console)
            if not result.finished:
                return None
        figures.append(json.loads((folder / FIGURES).read_text(encoding="utf-8")))
    found = spreads(figures, names)
    table = {name: {"mean": s.mean, "sd": s.deviation, "values": s.values} for name, s in found.items()}
    atomic_write(out / SUMMARY, json.dumps({"runs": count, "figures": table}, indent=1) + "\n")
    return found


def _run(recipe: Mapping[str, Any], folder: Path, console: Console | None) -> RunResult:
    if (folder / RECIPE).is_file():
        return resume(folder, console)
    check_empty(folder)
    return start(recipe, folder, console)


def _check_same(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Raises `InputError` where a run of another recipe lies in the folder; where it runs, and how it is watched, may
    differ."""
    if not (folder / RECIPE).is_file():
        return
    held, wanted = json.loads((folder / RECIPE).read_text(encoding="utf-8")), json.loads(json.dumps(recipe))
    for table in (held, wanted):
        table["train"] = {name: value for name, value in table["train"].items() if name not in HARMLESS}
    other = [name for name in sorted({*held, *wanted}) if held.get(name) != wanted.get(name)]
    if other:
        raise InputError(f"{folder}: holds a run of other settings ({', '.join(other)}); choose another folder.")


def _finished(folder: Path) -> bool:
    return (folder / FIGURES).is_file() and (folder / "model").is_dir()
