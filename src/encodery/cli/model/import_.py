"""encodery model import: read a checkpoint of another library and write it as a model folder."""

from __future__ import annotations

from typing import Annotated

import typer

from encodery.cli._options import OutModel, Overwrite


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A Hugging Face or sentence-transformers folder, or a name on the Hugging Face hub."
        ),
    ],
    out: OutModel,
    checkpoint_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="The checkpoint format (default: the one that config.json states). A dotted path such as "
            "my_project.my_format names one outside the package.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read config.json and safetensors of a stock checkpoint and write a model folder.

    Weights that the model does not use, such as a pooler, are stored too, so that `encodery model export --format hf`
    writes the checkpoint back bit for bit. So are the pooling, normalisation and maximum length of
    sentence-transformers folders. A cross-encoder with one output becomes a model for the task `rank`;
    other stock heads become models for `classify`, `tag`, `span` or `choice`.
    """
    from encodery.base.errors import SettingsError
    from encodery.base.parts import name_of
    from encodery.cli._screen import screen
    from encodery.finetune import artifact
    from encodery.model.load import Provenance, load_model, save_model

    loaded = load_model(source, checkpoint_format=checkpoint_format)
    try:
        task, reason = artifact.imported_head(loaded), ""
    except SettingsError as error:
        task, reason = None, f"Its head is kept, but cannot be run here: {error}"
    task_settings, tensors = ({}, {}) if task is None else artifact.artifact_contents(loaded.model, task)
    modules = loaded.modules() if task is None else {artifact.MODULE: tensors}
    parents = {} if loaded.artifact is None else {"model": loaded.artifact}
    metrics = {"parameters": sum(p.numel() for p in loaded.model.parameters())}
    saved = save_model(
        out,
        loaded.model,
        loaded.tokenizer_path,
        settings={**loaded.settings, **task_settings},
        modules=modules,
        provenance=Provenance(parents, loaded.origin),
        metrics=metrics,
        overwrite=overwrite,
    )
    settings, console = loaded.model.settings, screen()
    layout = "encodery" if loaded.origin is None else loaded.origin.format
    head = "with" if settings.head is not None else "without"
    console.print(
        f"{saved.path}: {metrics['parameters']:,} parameters, {settings.depth} layers of width {settings.width}, "
        f"vocabulary of {settings.vocab_size:,}, {head} a masked-language-modelling head (layout {layout})."
    )
    if task is not None and name_of(task.task) == "rank":
        console.print(
            f"Its head scores how well a text answers a query: `encodery search query INDEX QUERY --rerank {out}`."
        )
    elif task is not None:
        console.print(f"Its head is for the task '{name_of(task.task)}': `encodery predict FILE --model {out}`.")
    elif reason:
        console.print(reason, markup=False)
    if loaded.tokenizer_path is None:
        console.print("It has no tokenizer: put tokenizer.json beside the weights and import it again.")
