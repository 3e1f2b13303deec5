"""Training of embeddings from the command line: what is asked, told before it starts, and told at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from encodery.embed.planning import Plan

FIGURES = {
    "ndcg": "nDCG@10",
    "mrr": "MRR@10",
    "spearman": "Spearman's rank correlation",
    "neighbour": "nearest neighbours of the same class",
}


def command_embed(
    data: Path,
    model: str,
    out: Path,
    settings: Sequence[str] = (),
    recipe: str | None = None,
    console: Console | None = None,
    seeds: int = 1,
) -> None:
    """Train an embedding of `model` on `data` into the run folder `out`; of several `seeds` into `out/seed-N`.

    `settings` are path=value, such as batch=128, loss.is=cosent, embed.pooling.is=cls or embed.prompts.query="ask: ";
    `recipe` is one of `recipes/embed`, chosen by the data if not given.
    """
    from encodery.base.errors import SettingsError
    from encodery.base.settings import overrides
    from encodery.cli._screen import screen
    from encodery.cli._spreads import told_spreads
    from encodery.cli.resume import stopped
    from encodery.embed.planning import plan
    from encodery.finetune.seeds import run_seeds
    from encodery.train.launch import check_empty, start

    console = console or screen(highlight=True)
    if seeds == 1:
        check_empty(out)
    made = plan(data, model, recipe, overrides(settings))
    if made.sentences and seeds > 1:
        raise SettingsError("--seeds: of raw sentences alone nothing is trained, so a seed changes nothing.")
    for note in made.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if made.sentences:
        _whitened(made, model, out, console)
    elif seeds > 1:
        told_spreads(run_seeds(made.recipe, out, seeds, console, tuple(FIGURES)), _words, seeds, out, console)
    else:
        result = start(made.recipe, out, console)
        if not stopped(result, console):
            _told(result.figures, made, out, console)


def _told(figures: Mapping[str, Any], made: Plan, out: Path, console: Console) -> None:
    """The figures of held-out and test rows, whether the run ended early, its speed, and what to do next."""
    from encodery.train.budget import Budget

    best = f" (best at step {figures['best_step']:,})" if "best_step" in figures else ""
    for name in (*FIGURES, *(f"test_{name}" for name in FIGURES)):
        if name in figures:
            later = "" if name.startswith("test_") else best
            console.print(f"{_words(name)} {figures[name]:.3f}{later}", highlight=False)
    budget, patience = Budget.parse(made.settings.train.budget), made.settings.train.patience
    if budget.kind == "steps" and figures["steps"] < budget.amount:
        told = f"ended early, at step {figures['steps']:,} of {budget.amount:,}: {patience} scores without a higher one"
        console.print(told, highlight=False, soft_wrap=True)
    console.print(
        f"[bold]{out}[/]: {figures['steps']:,} steps, {figures['tokens_per_s']:,.0f} tokens/s", highlight=False
    )
    console.print(f"  encodery embed --model {out} 'a text'", highlight=False, soft_wrap=True)


def _words(name: str) -> str:
    """A figure of a run's, as in "test: nDCG@10"."""
    return f"{'test' if name.startswith('test_') else 'held out'}: {FIGURES[name.removeprefix('test_')]}"


def _whitened(made: Plan, model: str, out: Path, console: Console) -> None:
    """Write the model with a finish fitted to raw sentences, and say what that did, to test rows too."""
    from encodery.base.settings import encode
    from encodery.embed.embedder import Embedder
    from encodery.embed.fitting import fit, judged
    from encodery.embed.job import prompt_names
    from encodery.model.load import load_model

    settings = made.settings
    written = fit(load_model(model), made.sentences, out, encode(settings.embed), None, settings.truncate)
    figures = written.manifest.figures
    console.print(
        f"[bold]{out}[/]: fitted to {figures['sentences']:,} sentences; mean cosine of two of them "
        f"{figures['alike_before']:.3f} before, {figures['alike']:.3f} now",
        highlight=False,
        soft_wrap=True,
    )
    if made.test is not None:
        prompts = prompt_names(settings, len(made.test.columns))
        before, now = (
            judged(Embedder.of(load_model(path)), made.test, prompts, settings.truncate) for path in (model, out)
        )
        written.add_figures({f"test_{name}": value for name, value in now.items()})
        for name, words in FIGURES.items():
            if name in now:
                console.print(f"test: {words} {now[name]:.3f}, {before[name]:.3f} before", highlight=False)
    console.print(f"  encodery embed --model {out} 'a text'", highlight=False, soft_wrap=True)
