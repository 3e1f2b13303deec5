"""Arguments and options that several verbs share, each with one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[path=value ...]", help="Settings, each written as path=value, such as train.seed=1."),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
OutRun = Annotated[Path, typer.Option("--out", "-o", help="The run folder to write.")]
OutModel = Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace the contents of the output folder. Without this option, existing results are not replaced.",
    ),
]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run folder, a model folder or a Hugging Face checkpoint folder.")
]
ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A run folder, a model folder or a Hugging Face checkpoint folder.")
]
Column = Annotated[str, typer.Option(help="The field of a .jsonl file that holds the text.")]
Truncate = Annotated[
    str,
    typer.Option(
        help="What happens to a text longer than the model's maximum: error refuses it; right or left "
        "drops tokens at that end; chunk encodes it in windows."
    ),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        help="The runtime that executes the model: one that `encodery show runtimes` lists, or the folder "
        "of an ONNX or OpenVINO export [default: PyTorch, or the packed engine on a CPU]."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
