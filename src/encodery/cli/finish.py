"""encodery finish: fit the last step of an embedding (whitening, centring) to raw sentences; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="A model or run folder, or a Hugging Face folder.")],
    texts: Annotated[Path, typer.Argument(help="Raw sentences, one a line, or .jsonl.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[path=value ...]", help="Embedding settings.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.")] = ...,  # type: ignore[assignment]
    column: Annotated[str, typer.Option(help="The column of .jsonl rows that holds the text.")] = "text",
    prompt: Annotated[str | None, typer.Option(help="Name of a stored prompt, put before each sentence.")] = None,
    truncate: Annotated[str, typer.Option(help="Text that is too long: error, right, left or chunk.")] = "right",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
) -> None:
    """Write OUT: the model, its embedding finished by what the sentences' vectors have in common.

    Settings are those of an embedding: 'finish=["whiten","normalise"]' if none are given, or
    'finish=[{is="whiten",power=1.0,keep=256},"normalise"]' 'finish=[{is="centre",directions=3},"normalise"]'
    pooling.is=layers. Sentences like those that will be searched or compared serve best; 20,000 of them are looked at.
    """
    from encodery.base.settings import overrides
    from encodery.cli._screen import screen
    from encodery.embed.files import texts_of
    from encodery.embed.fitting import fit
    from encodery.model.load import load_model

    over = {"finish": ["whiten", "normalise"], **overrides(settings or [])}
    made = fit(load_model(model), texts_of(texts, column), out, over, prompt, truncate, overwrite)
    told = made.manifest.figures
    cut = f", {told['dropped']:,} tokens cut" if told["dropped"] else ""
    screen().print(
        f"{out}: fitted to {told['sentences']:,} sentences{cut}; mean cosine of two of them {told['alike_before']:.3f} "
        f"before, {told['alike']:.3f} now.",
        soft_wrap=True,
    )
