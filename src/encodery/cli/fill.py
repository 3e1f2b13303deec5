"""encodery fill: the most probable words where a text says [MASK]."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from encodery.generate import Generated


def command(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts with one or more [MASK] (or <mask>).")],
    model: Annotated[Path, typer.Option("--model", "-m", help="A run, a model folder or a Hugging Face folder.")],
    top: Annotated[int, typer.Option(help="Proposals for each mask.", min=1)] = 5,
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one", help="Fill the surest mask first, then ask again for the others.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a text.")] = False,
) -> None:
    """Fill masks with a pre-trained model.

    Several masks in a text are filled independently, unless --one-by-one.
    """
    from encodery.generate.fill import Fill
    from encodery.model.load import load_model

    loaded = load_model(model)
    part = Fill(top=top, one_by_one=one_by_one)
    for text, filled in zip(texts, part.generate(loaded.model, loaded.tokenizer, texts), strict=True):
        if as_json:
            print(json.dumps(_table(text, filled), ensure_ascii=False))
        else:
            _print(filled)


def _table(text: str, filled: Generated) -> dict[str, object]:
    masks = [
        [{"token": p.token, "id": p.id, "probability": round(p.probability, 6), "text": p.text} for p in slot]
        for slot in filled.slots
    ]
    return {"text": text, "filled": filled.text, "masks": masks}


def _print(filled: Generated) -> None:
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
