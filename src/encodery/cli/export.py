"""encodery export: write a model as other programs read it, checked against the model's own outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help="One of `encodery show export`, such as hf.")],  # noqa: A002
    model: Annotated[str, typer.Argument(help="A model or run folder, or a Hugging Face folder.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[path=value ...]", help="Settings of the format.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
) -> None:
    """Write DIR in that format; refused where the format cannot hold the model or its outputs would differ.

    hf: loads in stock transformers (AutoModelForMaskedLM, AutoModel, AutoTokenizer) without remote code; a fine-tuned
    model with its head, where a stock class computes it (AutoModelForTokenClassification and others). Settings:
    layout=bert, dtype=float16, license=apache-2.0, title="My encoder", head=false (the encoder alone), peer=false (do
    not ask transformers).

    onnx, openvino: a model of embeddings as a graph that runs without PyTorch. weights=int8 texts=FILE makes 8-bit
    weights, calibrated on three quarters of the texts and judged on the rest. `encodery embed --runtime DIR` runs it.
    """
    from encodery.base.parts import find
    from encodery.base.settings import decode, overrides
    from encodery.cli._screen import screen
    from encodery.export import Exporter
    from encodery.model.load import load_model

    exporter = decode(find(Exporter, format), overrides(settings or []), where=format)
    done = exporter.write(load_model(model), out, overwrite)
    console = screen()
    console.print(f"{out}: {format} export, layout {done.layout}, {_size(done.artifact.manifest.files)} MB.")
    for name, value in done.figures.items():
        shown = f"{value:.1e}" if isinstance(value, float) and "drift" in name else value
        console.print(f"  {name.replace('_', ' ')}: {f'{shown:.5g}' if isinstance(shown, float) else shown}")


def _size(files: dict[str, dict[str, int]]) -> str:
    return f"{sum(entry['bytes'] for entry in files.values()) / 1e6:.1f}"
