"""encodery model export: write a model in the format of another library, checked against the model's own outputs."""

from __future__ import annotations

from typing import Annotated

import typer

from encodery.cli._options import ModelArgument, OutFolder, Overwrite, Settings


def command(
    model: ModelArgument,
    out: OutFolder,
    format: Annotated[  # noqa: A002
        str, typer.Option("--format", "-f", help="The format to write, one of `encodery show export`.")
    ] = "hf",
    settings: Settings = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a model. A format that cannot hold the model, or an export whose outputs differ, is refused.

    hf: loads in stock transformers (AutoModelForMaskedLM, AutoModel, AutoTokenizer) without remote code; a fine-tuned
    model is exported with its head if a stock class computes it (AutoModelForTokenClassification and others). Settings:
    checkpoint_format=bert, dtype=float16, license=apache-2.0, title="My encoder", head=false (the encoder alone),
    verify_with_peer=false (do not compare with transformers).

    sentence_transformers: loads as a SentenceTransformer, SparseEncoder or CrossEncoder.

    onnx, openvino: an embedding model as a graph that runs without PyTorch. weights=int8 texts=FILE quantises the
    weights to 8 bits, calibrated on three quarters of the texts and evaluated on the rest. `encodery embed encode
    --runtime OUT` runs it.
    """
    from encodery.base.parts import find_part
    from encodery.base.settings import decode, parse_overrides
    from encodery.cli._screen import screen
    from encodery.export import Exporter
    from encodery.model.load import load_model

    exporter = decode(find_part(Exporter, format), parse_overrides(settings or []), where=format)
    done = exporter.write(load_model(model), out, overwrite)
    console = screen()
    console.print(f"{out}: {format} export, layout {done.format}, {_megabytes(done.artifact.manifest.files)} MB.")
    for name, value in done.metrics.items():
        shown = f"{value:.1e}" if isinstance(value, float) and "drift" in name else value
        console.print(f"  {name.replace('_', ' ')}: {f'{shown:.5g}' if isinstance(shown, float) else shown}")


def _megabytes(files: dict[str, dict[str, int]]) -> str:
    return f"{sum(entry['bytes'] for entry in files.values()) / 1e6:.1f}"
