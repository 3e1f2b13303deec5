"""Mean and deviation of several seeds, told at their end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from encodery.finetune.seeds import Spread


def told_spreads(
    found: Mapping[str, Spread] | None, words: Callable[[str], str], seeds: int, out: Path, console: Console
) -> None:
    """Each figure, by its name in `words`; None of runs that were interrupted: how they go on."""
    if found is None:
        console.print(f"stopped and saved in {out}. The same command goes on.", highlight=False, soft_wrap=True)
        return
    for name, spread in found.items():
        console.print(f"{words(name)} {spread} ({seeds} seeds)", highlight=False, markup=False)
    if not found:
        console.print("no row was judged: there is no figure to compare", highlight=False)
    console.print(f"[bold]{out}[/]: a run of each seed in seed-N; their figures in seeds.json", highlight=False)
