"""The same run under several seeds, and mean ± standard deviation of its metrics, since a single run says little.

Seeds change the order of rows, dropout and the initial weights of the head (arXiv:2002.06305). The split of the data
stays the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encodery.base.artifact import atomic_write
from encodery.base.errors import InputError, SettingsError
from encodery.train.launch import BuildJob, check_empty, resume, start
from encodery.train.loop import METRICS, RunResult
from encodery.train.recipe import RECIPE, Recipe, read_recipe_table
from encodery.train.settings import NEUTRAL_SETTINGS

if TYPE_CHECKING:
    from rich.console import Console

SUMMARY = "seeds.json"
SPLIT_PREFIXES = ("dev_", "tuned_dev_", "test_")
Builder = Callable[[Recipe[Any]], BuildJob]
"""Returns what makes the job of a recipe from data that was read already."""


@dataclass(frozen=True)
class MetricSummary:
    """Mean and standard deviation (with n - 1) of a metric over runs, and its `values`."""

    mean: float
    std: float
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.std:.4f}"


def summarise(values: Sequence[float]) -> MetricSummary:
    """Summarise the values of one metric. The standard deviation of a single value is NaN."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return MetricSummary(float(np.mean(values)), std, tuple(values))


def summarise_metrics(metrics: Sequence[Mapping[str, Any]], names: Collection[str] = ()) -> dict[str, MetricSummary]:
    """Summarise, by name, every metric of a split that all runs have, and those in `names`."""
    common = set[str].intersection(*(set(one) for one in metrics))
    chosen = sorted(name for name in common if name.startswith(SPLIT_PREFIXES) or name in names)
    return {name: summarise([one[name] for one in metrics]) for name in chosen}


def run_seeds(
    recipe: Recipe[Any],
    out: Path,
    num_seeds: int,
    console: Console | None = None,
    names: Collection[str] = (),
    builder: Builder | None = None,
) -> dict[str, MetricSummary] | None:
    """Run a recipe in `out/seed-N` for `num_seeds` seeds, starting with its own, and write `out/seeds.json`.

    Finished runs are not repeated, interrupted ones are resumed. If a run is interrupted, no summary is written and
    None is returned. `names`: metrics that belong to no split and are summarised too. `builder`: makes the jobs from
    data that was read already (None: every run reads its data).
    Raises `SettingsError` for fewer than two seeds, `InputError` if a folder holds a run with other settings.
    """
    if num_seeds < 2:
        raise SettingsError(f"seeds = {num_seeds}: a standard deviation needs at least 2 runs, better 3 or more.")
    first = recipe.settings.train.seed
    metrics = []
    for seed in range(first, first + num_seeds):
        folder, own = out / f"seed-{seed}", recipe.with_train(seed=seed)
        _check_same(folder, own)
        if not _finished(folder):
            if console is not None:
                console.print(f"seed {seed}, run {seed - first + 1} of {num_seeds}", highlight=False)
            result = _run(own, folder, console, None if builder is None else builder(own))
            if not result.finished:
                return None
        metrics.append(json.loads((folder / METRICS).read_text(encoding="utf-8")))
    summaries = summarise_metrics(metrics, names)
    table = {name: {"mean": s.mean, "std": s.std, "values": s.values} for name, s in summaries.items()}
    atomic_write(out / SUMMARY, json.dumps({"runs": num_seeds, "metrics": table}, indent=1) + "\n")
    return summaries


def _run(recipe: Recipe[Any], folder: Path, console: Console | None, build: BuildJob | None) -> RunResult:
    if (folder / RECIPE).is_file():
        return resume(folder, console)
    check_empty(folder)
    return start(recipe, folder, console, build)


def _check_same(folder: Path, recipe: Recipe[Any]) -> None:
    """Raise `InputError` if the folder holds a run of another recipe; settings without effect on weights may differ."""
    if not (folder / RECIPE).is_file():
        return
    tables = [
        {**table.pop("settings"), **table}
        for table in (read_recipe_table(folder), json.loads(json.dumps(recipe.encode())))
    ]
    for table in tables:
        table["train"] = {name: value for name, value in table["train"].items() if name not in NEUTRAL_SETTINGS}
    stored, own = tables
    different = [name for name in sorted({*stored, *own}) if stored.get(name) != own.get(name)]
    if different:
        raise InputError(f"{folder}: holds a run with other settings ({', '.join(different)}); choose another folder.")


def _finished(folder: Path) -> bool:
    return (folder / METRICS).is_file() and (folder / "model").is_dir()
