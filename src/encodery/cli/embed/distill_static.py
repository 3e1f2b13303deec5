"""encodery embed distill-static: distil an encoder into static token embeddings, as fast as their tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encodery.cli._options import Column, ModelArgument, OutModel, Overwrite, Settings


def command(
    model: ModelArgument,
    out: OutModel,
    settings: Settings = None,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", "-t", help="Texts in which tokens are counted: one per line, or .jsonl with --column."),
    ] = None,
    column: Column = "text",
    overwrite: Overwrite = False,
) -> None:
    """Write a model that has one embedding per token of the vocabulary; a text is the weighted mean of its tokens.

    Settings: dimension=256; sif_coefficient=1e-4, which gives rare tokens more weight (0: equal
    weights). Without --texts, the order of the vocabulary is taken as the order of frequency. `encodery embed encode`,
    `search` and `model export --format sentence_transformers` accept the result like any other model.
    """
    from encodery.base.settings import decode, parse_overrides
    from encodery.cli._screen import screen
    from encodery.encoders.files import read_texts
    from encodery.encoders.static_distillation import StaticDistillationSettings, distill_static
    from encodery.model.load import load_model

    chosen = decode(StaticDistillationSettings, parse_overrides(settings or []), where="static")
    counted = None if texts is None else read_texts(texts, column)
    artifact = distill_static(load_model(model), out, chosen, counted, overwrite)
    size = sum(entry["bytes"] for entry in artifact.manifest.files.values()) / 1e6
    kept = artifact.manifest.metrics["variance_kept"]
    screen().print(f"{out}: {size:.1f} MB; {kept:.1%} of the variance of the embeddings kept.")
