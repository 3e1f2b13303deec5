"""Printing the mean and deviation of runs with several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from encodery.finetune.seeds import MetricSummary


def print_spreads(
    spreads: Mapping[str, MetricSummary] | None, label: Callable[[str], str], seeds: int, out: Path, console: Console
) -> None:
    """Print each metric under its `label`, or how to continue if the runs were interrupted (`spreads` is None)."""
    if spreads is None:
        console.print(
            f"Stopped; checkpoints are saved in {out}. Run the same command to continue.",
            highlight=False,
            soft_wrap=True,
        )
        return
    for name, spread in spreads.items():
        console.print(f"{label(name)} {spread} ({seeds} seeds)", highlight=False, markup=False)
    if not spreads:
        console.print(
            "The data has no held-out or test examples, so that there is nothing to compare.", highlight=False
        )
    console.print(f"[bold]{out}[/]: one run per seed in seed-N; their metrics are in seeds.json", highlight=False)
