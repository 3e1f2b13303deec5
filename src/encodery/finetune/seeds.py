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
from encodery.train.launch import check_empty, resume, start
from encodery.train.loop import METRICS, RunResult
from encodery.train.recipe import RECIPE, Recipe, read_recipe_table
from encodery.train.settings import NEUTRAL_SETTINGS

if TYPE_CHECKING:
    from rich.console import Console

SUMMARY = "seeds.json"
SPLIT_PREFIXES = ("dev_", "tuned_dev_", "test_")


@dataclass(frozen=True)
class MetricSummary:
    """Mean and standard deviation (n - 1) of a figure over runs, and its `values`."""

    mean: float
    std: float
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.std:.4f}"


def summarise(values: Sequence[float]) -> MetricSummary:
    """Of one figure. The deviation of a single value is not a number."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return MetricSummary(float(np.mean(values)), deviation, tuple(values))


def summarise_metrics(metrics: Sequence[Mapping[str, Any]], names: Collection[str] = ()) -> dict[str, MetricSummary]:
    """Of every figure of quality that all runs have, by name: those of a split, and those of these `names`."""
    shared = set[str].intersection(*(set(one) for one in metrics))
    chosen = sorted(name for name in shared if name.startswith(SPLIT_PREFIXES) or name in names)
    return {name: summarise([one[name] for one in metrics]) for name in chosen}


def run_seeds(
    recipe: Recipe[Any], out: Path, num_seeds: int, console: Console | None = None, names: Collection[str] = ()
) -> dict[str, MetricSummary] | None:
    """Runs of a recipe in `out/seed-N`, from its own seed on; what is finished is not run again, what was interrupted
    goes on. Writes `out/seeds.json` with the spreads of the figures, those of `names`, which bear no split's, besides.
    An interrupted run leaves it unwritten, and None is returned.

    Raises `SettingsError` for fewer than two seeds, `InputError` where a folder holds a run of other settings.
    """
    if num_seeds < 2:
        raise SettingsError(f"seeds = {num_seeds}: a spread wants at least 2 runs, better 3 or more.")
    first = recipe.settings.train.seed
    figures = []
    for seed in range(first, first + num_seeds):
        folder, own = out / f"seed-{seed}", recipe.with_train(seed=seed)
        _check_same(folder, own)
        if not _finished(folder):
            if console is not None:
                console.print(f"seed {seed}, run {seed - first + 1} of {num_seeds}", highlight=False)
            result = _run(own, folder, console)
            if not result.finished:
                return None
        figures.append(json.loads((folder / METRICS).read_text(encoding="utf-8")))
    found = summarise_metrics(figures, names)
    table = {name: {"mean": s.mean, "sd": s.std, "values": s.values} for name, s in found.items()}
    atomic_write(out / SUMMARY, json.dumps({"runs": num_seeds, "figures": table}, indent=1) + "\n")
    return found


def _run(recipe: Recipe[Any], folder: Path, console: Console | None) -> RunResult:
    if (folder / RECIPE).is_file():
        return resume(folder, console)
    check_empty(folder)
    return start(recipe, folder, console)


def _check_same(folder: Path, recipe: Recipe[Any]) -> None:
    """Raises `InputError` where a run of another recipe lies in the folder; where it runs, and how it is watched, may
    differ."""
    if not (folder / RECIPE).is_file():
        return
    held, wanted = read_recipe_table(folder), json.loads(json.dumps(recipe.encode()))
    held, wanted = ({**table.pop("settings"), **table} for table in (held, wanted))
    for table in (held, wanted):
        table["train"] = {name: value for name, value in table["train"].items() if name not in NEUTRAL_SETTINGS}
    other = [name for name in sorted({*held, *wanted}) if held.get(name) != wanted.get(name)]
    if other:
        raise InputError(f"{folder}: holds a run of other settings ({', '.join(other)}); choose another folder.")


def _finished(folder: Path) -> bool:
    return (folder / METRICS).is_file() and (folder / "model").is_dir()
