"""encodery search index: split documents into passages, encode them and store them in an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encodery.cli._options import OutFolder, Overwrite, Runtime
from encodery.cli.search._shared import Progress, print_statistics, split_arguments


def command(
    out: OutFolder,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE... [path=value ...]",
            help="Corpus folders, folders of documents, globs or files; then settings.",
        ),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            "-m",
            help="The encoder: a dense, sparse or multi-vector model; one of each kind may be given. Without a model "
            "the "
            "index is searched by BM25 only.",
        ),
    ] = None,
    encoded: Annotated[
        Path | None,
        typer.Option(help="A folder of `encodery search encode`, which replaces the sources and the model."),
    ] = None,
    overwrite: Overwrite = False,
    runtime: Runtime = None,
) -> None:
    """Build an index of documents.

    Settings are written as path=value, such as passages.size=200, passages.overlap=20, engine.language=german,
    weight=0.3, text=body, or vectors=int8 (the stored precision: fp32, fp16, int8 or binary). Run the same command
    again to continue an interrupted build.
    """
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.search.build import IndexSettings, build
    from encodery.search.encoded_source import build_encoded
    from encodery.search.load_retrievers import load_retrievers

    sources, settings = split_arguments(arguments or [], IndexSettings, "index")
    if encoded is not None and sources:
        raise InputError(f"{sources[0]}: --encoded replaces the sources; give one or the other.")
    console = screen()
    sides, paths = load_retrievers(model or [], runtime)
    with Progress(console) as progress:
        if encoded is not None:
            built = build_encoded(encoded, out, sides, settings, overwrite, progress)
        else:
            built = build(sources, out, sides, settings, paths, overwrite, progress)
    if not built.is_new:
        console.print(f"{out}: is up to date with these files, settings and models; nothing to do.")
    print_statistics(console, built.artifact.manifest.metrics, out)
