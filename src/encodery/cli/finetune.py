"""encodery finetune: teach an encoder a task from labelled rows, or make it an embedding model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console


AUTO = "auto-"


def command(
    task: Annotated[
        str, typer.Argument(help="One of `encodery show finetune.tasks`, embed, or auto-classify, auto-pair.")
    ],
    data: Annotated[Path, typer.Argument(help="A file of rows, or a folder of train, dev and test files.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[path=value ...]", help="Settings.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A run, a model folder or a Hugging Face folder.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder to write.")] = ...,  # type: ignore[assignment]
    seeds: Annotated[int, typer.Option(help="Runs of so many seeds in OUT/seed-N; mean and deviation.", min=1)] = 1,
    recipe: Annotated[str | None, typer.Option(help="Of `embed` only: a recipe of recipes/embed.")] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="Of `cloze` only: texts that models of single patterns label for a classifier.")
    ] = None,
    generations: Annotated[int, typer.Option(help="With --unlabelled: how often the models teach each other.")] = 3,
) -> None:
    """Fine-tune a model; what the columns are taken for, and what was found in the rows, is shown first.

    Settings are path=value, such as epochs=5, batch=32, optim.lr=5e-5, truncate=chunk, task.weights=balanced,
    columns.label=category, adapt=lora or train.seed=1. What is left out is chosen by the number of rows and the size of
    the model. `auto-classify` begins with a linear head on the frozen model and trains more of it only where
    cross-validation says that it pays. The best weights on dev rows are kept. Ctrl-C saves and leaves; `encodery
    resume RUN` goes on.
    """
    from encodery.base.errors import SettingsError
    from encodery.base.settings import overrides
    from encodery.cli._screen import screen

    console = screen(highlight=True)
    if task == "embed":
        from encodery.cli._finetune_embed import command_embed

        command_embed(data, model, out, settings or [], recipe, console, seeds)
        return
    if unlabelled is not None:
        if task != "cloze" or seeds > 1:
            raise SettingsError("--unlabelled: is for `cloze`, and one seed, which train.seed sets.")
        _teach(data, unlabelled, model, out, overrides(settings or []), generations, console)
        return
    if recipe is not None:
        raise SettingsError("--recipe: is of `embed` only; give settings as path=value.")
    over = overrides(settings or [])
    if task.startswith(AUTO):
        if seeds > 1:
            raise SettingsError(f"--seeds: {task} chooses a stage by cross-validation; run that stage with --seeds.")
        _auto(task.removeprefix(AUTO), data, model, out, over, console)
        return
    from encodery.cli._spreads import told_spreads
    from encodery.cli.resume import stopped
    from encodery.finetune.planning import plan
    from encodery.finetune.seeds import run_seeds
    from encodery.train.launch import check_empty, start

    if seeds == 1:
        check_empty(out)
    made = plan(task, data, model, over)
    for note in made.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if seeds > 1:
        told_spreads(run_seeds(made.recipe, out, seeds, console), _words, seeds, out, console)
        return
    result = start(made.recipe, out, console)
    if stopped(result, console):
        return
    _told(result.figures, out, console)


def _auto(task: str, data: Path, model: str, out: Path, over: Mapping[str, Any], console: Console) -> None:
    from encodery.finetune.auto import auto

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    _told(auto(task, data, model, over, out, tell).figures, out, console)


def _teach(
    data: Path, unlabelled: Path, model: str, out: Path, over: Mapping[str, Any], generations: int, console: Console
) -> None:
    from encodery.finetune.generations import CLASSIFIER, teach

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    _told(teach(data, unlabelled, model, over, out, generations, tell), out / CLASSIFIER / "run", console)


def _told(figures: Mapping[str, Any], out: Path, console: Console) -> None:
    """The final figures, the speed, and what to do next."""
    for split in ("tuned_dev", "test"):
        found = {k.removeprefix(f"{split}_"): v for k, v in figures.items() if k.startswith(f"{split}_")}
        if found:
            line = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
            best = f", best at step {figures['best_step']:,}" if split != "test" and "best_step" in figures else ""
            console.print(f"{split.removeprefix('tuned_')}: {line}{best}", highlight=False, markup=False)
    speed = f", {figures['samples_per_s']:,.0f} rows/s" if "samples_per_s" in figures else ""
    console.print(f"[bold]{out}[/]: {figures['steps']:,} steps{speed}", highlight=False)
    console.print(f"  encodery predict {out} FILE --out ANSWERS.jsonl", highlight=False, markup=False, soft_wrap=True)


def _words(name: str) -> str:
    split, _, rest = name.removeprefix("tuned_").partition("_")
    return f"{split} {rest}{' (tuned)' if name.startswith('tuned_') else ''}:"
