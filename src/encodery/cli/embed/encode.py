"""encodery embed encode: encode texts into embeddings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encodery.cli._options import Column, ModelOption, Runtime, Truncate

if TYPE_CHECKING:
    from collections.abc import Iterable


def command(
    model: ModelOption,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="The texts, unless --file.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A file of texts: one per line, or .jsonl with --column.")
    ] = None,
    column: Column = "text",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The file to write: .npy (a matrix) or .jsonl [default: JSON lines on stdout]."
        ),
    ] = None,
    truncate: Truncate = "chunk",
    prompt: Annotated[str | None, typer.Option(help="The name of a prompt that is stored with the model.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="The number of tokens encoded in one batch.", min=1)] = 2048,
    runtime: Runtime = None,
) -> None:
    """Encode texts. Pooling and post-processing are those of the model: by default the mean, scaled to unit length.

    By default a text longer than the model's maximum is encoded in windows whose embeddings are averaged. The number of
    dropped tokens is reported. Large files are read, encoded and written in pieces. A sparse model (SPLADE) writes term
    weights and a multi-vector model (ColBERT) one embedding per token, both as JSON lines.
    """
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.encoders.exported import parse_runtime
    from encodery.encoders.files import EmbeddingFile, read_texts
    from encodery.encoders.json_lines import json_lines
    from encodery.encoders.loading import kind_of, load_dense, load_encoder
    from encodery.model.load import load_model

    if (file is None) == (not texts):
        raise InputError("Give either texts or a --file of texts.")
    source = iter(texts or []) if file is None else read_texts(file, column)
    loaded = load_model(model)
    if kind_of(loaded.settings) != "dense":
        if runtime is not None:
            raise InputError(
                f"--runtime {runtime}: is for dense models; {model} is a {kind_of(loaded.settings)} model."
            )
        _write_lines(json_lines(load_encoder(loaded), source, truncate, batch_tokens, prompt), out, truncate)
        return
    embedder = load_dense(loaded, runtime=None if runtime is None else parse_runtime(runtime))
    start = time.perf_counter()
    count = tokens = dropped = 0
    pieces = embedder.stream(source, truncate, batch_tokens, prompt)
    if out is None:
        for piece in pieces:
            for row in piece.vectors.tolist():
                print(json.dumps([round(value, 7) for value in row]))
            dropped += int(piece.dropped.sum())
        _report_dropped(dropped, truncate)
        return
    with EmbeddingFile(out, embedder.dimension) as target:
        for piece in pieces:
            target.write(piece.vectors)
            count, tokens = count + len(piece), tokens + int(piece.tokens.sum())
            dropped += int(piece.dropped.sum())
    seconds = time.perf_counter() - start
    speed = (
        f"{tokens:,} tokens in {seconds:.1f} s ({tokens / max(seconds, 1e-9):,.0f} tokens/s, {embedder.runtime_name})"
    )
    screen().print(
        f"{out}: {count:,} embeddings of dimension {embedder.dimension}; {speed}; {dropped:,} tokens dropped."
    )


def _write_lines(lines: Iterable[tuple[str, int]], out: Path | None, truncate: str) -> None:
    """Write JSON lines to stdout, or to a .jsonl file that appears only when it is complete."""
    from encodery.base.artifact import atomic_open
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen

    dropped = count = 0
    if out is None:
        for line, lost in lines:
            print(line)
            dropped += lost
        _report_dropped(dropped, truncate)
        return
    if out.suffix != ".jsonl":
        raise InputError(f"{out}: sparse and multi-vector embeddings are written to .jsonl, not '{out.suffix}'.")
    with atomic_open(out) as file:
        for line, lost in lines:
            file.write(f"{line}\n".encode())
            count, dropped = count + 1, dropped + lost
    screen().print(f"{out}: {count:,} texts; {dropped:,} tokens dropped.")


def _report_dropped(dropped: int, truncate: str) -> None:
    from encodery.cli._screen import screen

    if dropped:
        screen(stderr=True, highlight=True).print(f"{dropped:,} tokens were dropped (--truncate {truncate}).")
