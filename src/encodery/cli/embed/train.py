"""encodery embed train: train an embedding model on pairs, triplets, scored pairs or raw sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.cli._options import ModelOption, OutRun, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from encodery.embed.planning import EmbedPlan

METRICS = {
    "ndcg": "nDCG@10",
    "mrr": "MRR@10",
    "spearman": "Spearman correlation",
    "neighbour": "nearest neighbours of the same class",
}


def command(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="A file of examples, a folder of train, dev and test files, or a BEIR folder."
        ),
    ],
    model: ModelOption,
    out: OutRun,
    settings: Settings = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="The name of a recipe that `encodery show` lists for `embed`, or a TOML file of settings "
            "[default: depends on the data].",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            help="The number of runs with different seeds. Several runs are written to OUT/seed-N, and the "
            "mean and standard deviation of each metric are reported.",
            min=1,
        ),
    ] = 1,
) -> None:
    """Train an embedding model. The roles of the columns and any problems in the data are printed before training.

    Settings are written as path=value, such as batch=128, loss.is=cosent, encoder.pooling.is=cls or
    encoder.prompts.query="search: ". The recipes colbert and splade train multi-vector and sparse embeddings. If the
    data are raw sentences and no recipe is set, nothing is trained: whitening is fitted to the sentences, as by
    `encodery embed postprocess`. Ctrl-C saves a checkpoint and stops; `encodery resume RUN` continues the run.
    """
    from encodery.cli._screen import screen

    train_embeddings(data, model, out, settings or (), recipe, seeds, screen(highlight=True))


def train_embeddings(
    data: Path,
    model: str,
    out: Path,
    settings: Sequence[str],
    recipe: str | None,
    seeds: int,
    console: Console,
) -> None:
    """Do what `command` describes, printing to `console`."""
    from encodery.base.errors import SettingsError
    from encodery.base.settings import parse_overrides
    from encodery.cli._spreads import print_spreads
    from encodery.cli.resume import stopped
    from encodery.embed.planning import plan_training
    from encodery.finetune.seeds import run_seeds
    from encodery.train.launch import check_empty, start

    if seeds == 1:
        check_empty(out)
    planned = plan_training(data, model, recipe, parse_overrides(settings))
    if planned.training is None and seeds > 1:
        raise SettingsError("--seeds: raw sentences are only whitened, not trained on, so that a seed changes nothing.")
    for note in planned.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    training = planned.training
    if training is None:
        _whiten(planned, model, out, console)
    elif seeds > 1:
        spreads = run_seeds(training.recipe, out, seeds, console, tuple(METRICS), training.builder)
        print_spreads(spreads, _label, seeds, out, console)
    else:
        result = start(training.recipe, out, console, training.build)
        if not stopped(result, console):
            _print_result(result.metrics, planned, out, console)


def _print_result(metrics: Mapping[str, Any], planned: EmbedPlan, out: Path, console: Console) -> None:
    """Print the held-out and test metrics, whether the run stopped early, its speed, and the next command."""
    from encodery.train.budget import Budget

    best = f" (best at step {metrics['best_step']:,})" if "best_step" in metrics else ""
    for name in (*METRICS, *(f"test_{name}" for name in METRICS)):
        if name in metrics:
            suffix = "" if name.startswith("test_") else best
            console.print(f"{_label(name)} {metrics[name]:.3f}{suffix}", highlight=False)
    budget, patience = Budget.parse(planned.settings.train.budget), planned.settings.train.patience
    if budget.kind == "steps" and metrics["steps"] < budget.amount:
        line = f"stopped early, at step {metrics['steps']:,} of {budget.amount:,}"
        console.print(f"{line}: no improvement in {patience} evaluations", highlight=False, soft_wrap=True)
    console.print(
        f"[bold]{out}[/]: {metrics['steps']:,} steps, {metrics['tokens_per_s']:,.0f} tokens/s", highlight=False
    )
    _print_next(out, console)


def _print_next(out: Path, console: Console) -> None:
    console.print(f"  encodery embed encode 'a text' --model {out}", highlight=False, soft_wrap=True)


def _label(name: str) -> str:
    """Return the label of a metric, such as "test: nDCG@10"."""
    return f"{'test' if name.startswith('test_') else 'held out'}: {METRICS[name.removeprefix('test_')]}"


def _whiten(planned: EmbedPlan, model: str, out: Path, console: Console) -> None:
    """Write the model with post-processing fitted to raw sentences, and print the effect, on test examples too."""
    from encodery.base.settings import encode
    from encodery.embed.examples import column_roles
    from encodery.embed.postprocess_fitting import evaluate_examples, fit_postprocess
    from encodery.encoders.loading import load_dense
    from encodery.model.load import load_model

    settings = planned.settings
    written = fit_postprocess(
        load_model(model), planned.sentences, out, encode(settings.encoder), None, settings.truncate
    )
    metrics = written.manifest.metrics
    console.print(
        f"[bold]{out}[/]: post-processing fitted to {metrics['sentences']:,} sentences; mean cosine of two sentences "
        f"{metrics['mean_cosine_before']:.3f} before, {metrics['mean_cosine']:.3f} after",
        highlight=False,
        soft_wrap=True,
    )
    if planned.test is not None:
        prompts = settings.prompt_names(column_roles(len(planned.test.columns)))
        before, after = (
            evaluate_examples(load_dense(load_model(path)), planned.test, prompts, settings.truncate)
            for path in (model, out)
        )
        written.add_metrics({f"test_{name}": value for name, value in after.items()})
        for name, label in METRICS.items():
            if name in after:
                console.print(f"test: {label} {after[name]:.3f}, {before[name]:.3f} before", highlight=False)
    _print_next(out, console)
