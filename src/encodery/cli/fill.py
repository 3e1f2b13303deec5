"""encodery fill: predict the tokens at the [MASK] positions of a text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from encodery.cli._options import Json, ModelOption

if TYPE_CHECKING:
    from encodery.generate import GeneratedText


def command(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts with one or more [MASK] (or <mask>).")],
    model: ModelOption,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="The number of predictions for each mask.", min=1)] = 5,
    one_by_one: Annotated[
        bool,
        typer.Option(
            "--one-by-one",
            help="Fill the mask with the most confident prediction first, then predict the others again.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Predict masked tokens with a pre-trained model.

    Several masks in one text are predicted independently, unless --one-by-one is set.
    """
    from encodery.generate.fill import FillMask
    from encodery.model.load import load_model

    loaded = load_model(model)
    part = FillMask(top_k=top_k, one_by_one=one_by_one)
    for text, filled in zip(texts, part.generate(loaded.model, loaded.tokenizer, texts), strict=True):
        if as_json:
            print(json.dumps(_as_table(text, filled), ensure_ascii=False))
        else:
            _print(filled)


def _as_table(text: str, filled: GeneratedText) -> dict[str, object]:
    masks = [
        [{"token": p.token, "id": p.id, "probability": round(p.probability, 6), "text": p.text} for p in slot]
        for slot in filled.slots
    ]
    return {"text": text, "filled": filled.text, "masks": masks}


def _print(filled: GeneratedText) -> None:
    from rich.table import Table
    from rich.text import Text

    from encodery.cli._screen import screen

    console = screen()
    if len(filled.slots) > 1:
        console.print(Text(filled.text, style="bold"))
    for number, slot in enumerate(filled.slots, 1):
        title = f"mask {number}" if len(filled.slots) > 1 else ""
        table = Table(box=None, show_header=bool(title), header_style="dim", padding=(0, 2, 0, 0))
        table.add_column(title, style="bold")
        table.add_column("", justify="right")
        table.add_column("")
        for proposal in slot:
            table.add_row(Text(proposal.token), f"{proposal.probability:.1%}", Text(proposal.text, style="dim"))
        console.print(table)
