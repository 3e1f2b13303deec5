"""encodery embed: texts to vectors."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[Path, typer.Option("--model", "-m", help="A run, a model folder or a Hugging Face folder.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts; or give --file.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="One text a line, or .jsonl.")] = None,
    column: Annotated[str, typer.Option(help="The column of .jsonl rows that holds the text.")] = "text",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=".npy (a matrix) or .jsonl [default: JSON lines on the screen].")
    ] = None,
    truncate: Annotated[str, typer.Option(help="Text that is too long: error, right, left or chunk.")] = "chunk",
    prompt: Annotated[str | None, typer.Option(help="Name of a prompt stored with the model.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens computed at once.", min=1)] = 2048,
) -> None:
    """Encode texts. Vectors are pooled and finished as the model's settings say: mean and unit length by default.

    A text longer than the model takes is read in windows whose vectors are averaged, unless --truncate says otherwise;
    how many tokens were dropped is told. Large files are read, encoded and written in pieces.
    """
    from rich.console import Console

    from encodery.base.errors import InputError
    from encodery.embed.embedder import Embedder
    from encodery.embed.files import VectorFile, texts_of
    from encodery.model.load import load_model

    if (file is None) == (not texts):
        raise InputError("Give texts, or a --file of texts; one of the two.")
    source = iter(texts or []) if file is None else texts_of(file, column)
    embedder = Embedder.of(load_model(model))
    begun = time.perf_counter()
    count = tokens = dropped = 0
    pieces = embedder.stream(source, truncate, batch_tokens, prompt)
    if out is None:
        for piece in pieces:
            for row in piece.vectors.tolist():
                print(json.dumps([round(value, 7) for value in row]))
            dropped += int(piece.dropped.sum())
        if dropped:
            Console(stderr=True).print(f"{dropped:,} tokens were dropped (--truncate {truncate}).")
        return
    with VectorFile(out, embedder.width) as target:
        for piece in pieces:
            target.write(piece.vectors)
            count, tokens = count + len(piece), tokens + int(piece.tokens.sum())
            dropped += int(piece.dropped.sum())
    seconds = time.perf_counter() - begun
    speed = f"{tokens:,} tokens in {seconds:.1f} s ({tokens / max(seconds, 1e-9):,.0f} tokens/s)"
    Console(highlight=False).print(f"{out}: {count:,} vectors of width {embedder.width}; {speed}; {dropped:,} dropped.")
