"""encodery embed: texts to vectors."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable


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
    runtime: Annotated[
        str | None,
        typer.Option(help="One of `encodery show runtimes`, or the folder of an onnx or openvino export."),
    ] = None,
) -> None:
    """Encode texts. Vectors are pooled and finished as the model's settings say: mean and unit length by default.

    A text longer than the model takes is read in windows whose vectors are averaged, unless --truncate says otherwise;
    how many tokens were dropped is told. Large files are read, encoded and written in pieces. A model that was trained
    for weights of words (splade) or a vector a token (colbert) gives those, as JSON lines.
    """
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.embed.embedder import Embedder
    from encodery.embed.exported import runtime_of
    from encodery.embed.files import VectorFile, texts_of
    from encodery.embed.lines import kind_of, lines
    from encodery.model.load import load_model

    if (file is None) == (not texts):
        raise InputError("Give texts, or a --file of texts; one of the two.")
    source = iter(texts or []) if file is None else texts_of(file, column)
    loaded = load_model(model)
    if kind_of(loaded) != "dense":
        if runtime is not None:
            raise InputError(f"--runtime {runtime}: runs models of one vector a text; this gives {kind_of(loaded)}.")
        _write_lines(lines(loaded, source, truncate, batch_tokens, prompt), out, truncate)
        return
    embedder = Embedder.of(loaded) if runtime is None else Embedder.of(loaded, "cpu").on(runtime_of(runtime))
    begun = time.perf_counter()
    count = tokens = dropped = 0
    pieces = embedder.stream(source, truncate, batch_tokens, prompt)
    if out is None:
        for piece in pieces:
            for row in piece.vectors.tolist():
                print(json.dumps([round(value, 7) for value in row]))
            dropped += int(piece.dropped.sum())
        if dropped:
            screen(stderr=True, highlight=True).print(f"{dropped:,} tokens were dropped (--truncate {truncate}).")
        return
    with VectorFile(out, embedder.width) as target:
        for piece in pieces:
            target.write(piece.vectors)
            count, tokens = count + len(piece), tokens + int(piece.tokens.sum())
            dropped += int(piece.dropped.sum())
    seconds = time.perf_counter() - begun
    speed = f"{tokens:,} tokens in {seconds:.1f} s ({tokens / max(seconds, 1e-9):,.0f} tokens/s, {embedder.ran_by})"
    screen().print(f"{out}: {count:,} vectors of width {embedder.width}; {speed}; {dropped:,} dropped.")


def _write_lines(rows: Iterable[tuple[str, int]], out: Path | None, truncate: str) -> None:
    """JSON lines to a .jsonl file, which appears whole, or to the screen."""
    from encodery.base.artifact import replacing
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen

    dropped = count = 0
    if out is None:
        for line, lost in rows:
            print(line)
            dropped += lost
    elif out.suffix != ".jsonl":
        raise InputError(f"{out}: this model's encodings are written to .jsonl, not '{out.suffix}'.")
    else:
        with replacing(out) as file:
            for line, lost in rows:
                file.write(f"{line}\n".encode())
                count, dropped = count + 1, dropped + lost
        screen().print(f"{out}: {count:,} texts; {dropped:,} tokens dropped.")
        return
    if dropped:
        screen(stderr=True, highlight=True).print(f"{dropped:,} tokens were dropped (--truncate {truncate}).")
