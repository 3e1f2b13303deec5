"""encodery static: a model without attention, distilled from an encoder; small, and as fast as its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="A model or run folder, or a Hugging Face folder.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The model folder to write.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[path=value ...]", help="Settings.")] = None,
    texts: Annotated[
        Path | None, typer.Option("--texts", help="Texts, one a line or .jsonl, in which words are counted.")
    ] = None,
    column: Annotated[str, typer.Option(help="The column of .jsonl rows that holds the text.")] = "text",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
) -> None:
    """Write DIR: a vector for each token of the vocabulary, a text is their mean.

    Settings: width=256 numbers a vector; rarity=1e-4, by which rare tokens weigh more (0: all alike). Without --texts
    the order of the vocabulary stands for how frequent its tokens are. `encodery embed`, `search` and `export
    sentence_transformers` take the result as any other model.
    """
    from encodery.base.settings import decode, overrides
    from encodery.cli._screen import screen
    from encodery.embed.files import texts_of
    from encodery.embed.static import StaticSettings, distil
    from encodery.model.load import load_model

    made = decode(StaticSettings, overrides(settings or []), where="static")
    artifact = distil(load_model(model), out, made, None if texts is None else texts_of(texts, column), overwrite)
    size = sum(entry["bytes"] for entry in artifact.manifest.files.values()) / 1e6
    screen().print(
        f"{out}: {size:.1f} MB; {artifact.manifest.figures['variance_kept']:.1%} of the vectors' variance kept."
    )
