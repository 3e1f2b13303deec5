"""encodery embed postprocess: fit the post-processing of embeddings (whitening, centring) to raw sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encodery.cli._options import Column, ModelArgument, OutModel, Overwrite, Settings, Truncate


def command(
    model: ModelArgument,
    out: OutModel,
    texts: Annotated[
        Path, typer.Option("--texts", "-t", help="A file of raw sentences: one per line, or .jsonl with --column.")
    ],
    settings: Settings = None,
    column: Column = "text",
    prompt: Annotated[
        str | None, typer.Option(help="The name of a stored prompt that is put before each sentence.")
    ] = None,
    truncate: Truncate = "right",
    overwrite: Overwrite = False,
) -> None:
    """Write a copy of a model whose post-processing is fitted to the embeddings of sentences. Nothing is trained.

    Settings are those of an embedding. The default is 'postprocess=["whiten","normalise"]'; others are
    'postprocess=[{is="whiten",power=1.0,keep=256},"normalise"]', 'postprocess=[{is="centre",directions=3},"normalise"]'
    and pooling.is=layers. Use sentences like those that will be searched or compared; the first 20,000 are read.
    """
    from encodery.base.settings import parse_overrides
    from encodery.cli._screen import screen
    from encodery.embed.postprocess_fitting import fit_postprocess
    from encodery.encoders.files import read_texts
    from encodery.model.load import load_model

    over = {"postprocess": ["whiten", "normalise"], **parse_overrides(settings or [])}
    written = fit_postprocess(load_model(model), read_texts(texts, column), out, over, prompt, truncate, overwrite)
    metrics = written.manifest.metrics
    dropped = f", {metrics['dropped']:,} tokens dropped" if metrics["dropped"] else ""
    screen().print(
        f"{out}: fitted to {metrics['sentences']:,} sentences{dropped}; mean cosine of two sentences "
        f"{metrics['mean_cosine_before']:.3f} before, {metrics['mean_cosine']:.3f} after.",
        soft_wrap=True,
    )
