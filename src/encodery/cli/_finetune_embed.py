"""Training of embeddings from the command line: what is asked, told before it starts, and told at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
) -> None:
    """Train an embedding of `model` on `data` into the run folder `out`.

    `settings` are path=value, such as batch=128, loss.is=cosent, embed.pooling.is=cls or embed.prompts.query="ask: ";
    `recipe` is one of `recipes/embed`, chosen by the data if not given.
    """
    from encodery.base.settings import overrides
    from encodery.cli._screen import screen
    from encodery.cli.resume import stopped
    from encodery.embed.planning import plan
    from encodery.train.launch import check_empty, start

    console = console or screen(highlight=True)
    check_empty(out)
    made = plan(data, model, recipe, overrides(settings))
    for note in made.notes:
        console.print(note, highlight=False, soft_wrap=True)
    if made.sentences:
        _whitened(made, model, out, console)
        return
    result = start(made.recipe, out, console)
    if stopped(result, console):
        return
    figures = result.figures
    for name, words in FIGURES.items():
        if name in figures:
            best = f" (best at step {figures['best_step']:,})" if "best_step" in figures else ""
            console.print(f"held out: {words} {figures[name]:.3f}{best}", highlight=False)
    console.print(
        f"[bold]{out}[/]: {figures['steps']:,} steps, {figures['tokens_per_s']:,.0f} tokens/s", highlight=False
    )
    console.print(f"  encodery embed --model {out} 'a text'", highlight=False, soft_wrap=True)


def _whitened(made: Plan, model: str, out: Path, console: Console) -> None:
    """Write the model with a finish fitted to raw sentences, and say what that did."""
    from encodery.base.settings import encode
    from encodery.embed.fitting import fit
    from encodery.model.load import load_model

    settings = made.settings
    figures = fit(
        load_model(model), made.sentences, out, encode(settings.embed), None, settings.truncate
    ).manifest.figures
    console.print(
        f"[bold]{out}[/]: fitted to {figures['sentences']:,} sentences; mean cosine of two of them "
        f"{figures['alike_before']:.3f} before, {figures['alike']:.3f} now",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"  encodery embed --model {out} 'a text'", highlight=False, soft_wrap=True)
