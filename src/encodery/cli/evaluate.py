"""encodery evaluate: how good models are on held-out text, in figures that compare across runs and tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from encodery.evaluate.mlm import Score

app = typer.Typer(help="Measure models on held-out text.", no_args_is_help=True)


@app.callback()
def _verbs() -> None:
    """Measure models on held-out text."""


@app.command()
def mlm(
    models_and_data: Annotated[
        list[Path], typer.Argument(metavar="MODEL... DATA", help="Models or runs, then a token store or a corpus.")
    ],
    tokens: Annotated[int | None, typer.Option(help="Held-out tokens to read at most [default: all].", min=1)] = None,
    length: Annotated[
        int | None, typer.Option(help="Longest sequence [default: the longest every model was trained on].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Loss, accuracy and bits per byte of hidden words: 15 % of the held-out tokens, the same for every model.

    Models with one tokenizer answer the same questions and are compared by loss; bits per byte compare models with
    different ones. Intervals are 95 %, over groups of documents.
    """
    from encodery.base.errors import InputError
    from encodery.evaluate.mlm import evaluate_mlm

    if len(models_and_data) < 2:
        raise InputError("Give one or more models, then the token store or corpus to measure them on.")
    scores = evaluate_mlm(models_and_data[:-1], models_and_data[-1], tokens, length)
    if as_json:
        print(json.dumps([score.table() for score in scores], indent=1, ensure_ascii=False))
    else:
        _print(scores)


def _print(scores: list[Score]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("model", box=None, header_style="bold")
    against = any(score.behind for score in scores)
    for name in ("loss", "accuracy", "bits/byte", "perplexity", "asked", *(("behind",) if against else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        table.add_row(
            Text(score.model),
            f"{score.loss:.4f}{_half(score.loss_interval)}",
            f"{100 * score.accuracy:.2f} %",
            f"{score.bits_per_byte:.4f}",
            f"{score.perplexity:.2f}",
            f"{score.predicted:,}",
            *((_behind(score, scores[0]),) if against else ()),
        )
    Console().print(table)


def _half(found: tuple[float, float] | None) -> str:
    """Half the width of an interval."""
    return "" if found is None else f" ± {(found[1] - found[0]) / 2:.3f}"


def _behind(score: Score, first: Score) -> str:
    """How much higher the loss is than the first model's."""
    return "" if score.behind is None else f"{score.loss - first.loss:+.4f}{_half(score.behind)}"
