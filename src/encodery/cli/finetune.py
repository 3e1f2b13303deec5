"""encodery finetune: fine-tune an encoder for a task on labelled examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.cli._options import ModelOption, OutRun, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

AUTO = "auto-"


def command(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK", help="A task that `encodery show finetune.tasks` lists, or auto-classify or auto-pair."
        ),
    ],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A file of examples, or a folder of train, dev and test files.")
    ],
    model: ModelOption,
    out: OutRun,
    settings: Settings = None,
    seeds: Annotated[
        int,
        typer.Option(
            help="The number of runs with different seeds. Several runs are written to OUT/seed-N, and the "
            "mean and standard deviation of each metric are reported.",
            min=1,
        ),
    ] = 1,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            help="For the task `cloze`: a file of unlabelled texts, which an ensemble of models, one per "
            "prompt pattern, labels (iPET)."
        ),
    ] = None,
    generations: Annotated[
        int,
        typer.Option(
            help="With --unlabelled: the number of times that the models of the ensemble are trained; 1 is PET."
        ),
    ] = 3,
) -> None:
    """Fine-tune a model. The roles of the columns and any problems in the data are printed before training.

    Settings are written as path=value, such as epochs=5, batch=32, optim.lr=5e-5, truncate=chunk,
    task.class_weights=balanced, columns.label=category, adapt=lora or train.seed=1. The defaults depend on the number
    of examples and the size of the model. `auto-classify` starts with a linear head on the frozen model and trains more
    of it only if cross-validation shows that this helps. The weights with the best metric on the dev split are kept.
    Ctrl-C saves a checkpoint and stops; `encodery resume RUN` continues the run.

    To train embedding models, use `encodery embed train`.
    """
    from encodery.base.errors import SettingsError
    from encodery.base.settings import parse_overrides
    from encodery.cli._screen import screen

    console, over = screen(highlight=True), parse_overrides(settings or [])
    if unlabelled is not None:
        if task != "cloze" or seeds > 1:
            raise SettingsError("--unlabelled: is for the task `cloze` and a single seed, set by train.seed.")
        _distil(data, unlabelled, model, out, over, generations, console)
    elif task.startswith(AUTO):
        if seeds > 1:
            raise SettingsError(f"--seeds: {task} chooses a stage by cross-validation; run that stage with --seeds.")
        _auto(task.removeprefix(AUTO), data, model, out, over, console)
    else:
        _train(task, data, model, out, over, seeds, console)


def _train(task: str, data: Path, model: str, out: Path, over: Mapping[str, Any], seeds: int, console: Console) -> None:
    from encodery.cli._spreads import print_spreads
    from encodery.cli.resume import stopped
    from encodery.finetune.planning import plan_finetuning
    from encodery.finetune.seeds import run_seeds
    from encodery.train.launch import check_empty, start

    if seeds == 1:
        check_empty(out)
    planned = plan_finetuning(task, data, model, over)
    for note in planned.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if seeds > 1:
        spreads = run_seeds(planned.recipe, out, seeds, console, builder=planned.builder)
        print_spreads(spreads, _label, seeds, out, console)
        return
    result = start(planned.recipe, out, console, planned.build)
    if not stopped(result, console):
        _print_result(result.metrics, out, console)


def _auto(task: str, data: Path, model: str, out: Path, over: Mapping[str, Any], console: Console) -> None:
    from encodery.finetune.auto import auto

    def log(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    _print_result(auto(task, data, model, over, out, log).metrics, out, console)


def _distil(
    data: Path, unlabelled: Path, model: str, out: Path, over: Mapping[str, Any], generations: int, console: Console
) -> None:
    from encodery.finetune.generations import CLASSIFIER, train_generations

    def log(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    metrics = train_generations(data, unlabelled, model, over, out, generations, log)
    _print_result(metrics, out / CLASSIFIER / "run", console)


def _print_result(metrics: Mapping[str, Any], out: Path, console: Console) -> None:
    """Print the final metrics, the speed and the next command."""
    for split in ("tuned_dev", "test"):
        values = {k.removeprefix(f"{split}_"): v for k, v in metrics.items() if k.startswith(f"{split}_")}
        if values:
            line = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
            best = f", best at step {metrics['best_step']:,}" if split != "test" and "best_step" in metrics else ""
            console.print(f"{split.removeprefix('tuned_')}: {line}{best}", highlight=False, markup=False)
    speed = f", {metrics['samples_per_s']:,.0f} examples/s" if "samples_per_s" in metrics else ""
    console.print(f"[bold]{out}[/]: {metrics['steps']:,} steps{speed}", highlight=False)
    console.print(
        f"  encodery predict FILE --model {out} --out PREDICTIONS.jsonl", highlight=False, markup=False, soft_wrap=True
    )


def _label(name: str) -> str:
    split, _, rest = name.removeprefix("tuned_").partition("_")
    return f"{split} {rest}{' (tuned)' if name.startswith('tuned_') else ''}:"
