"""encodery load: take in a BERT, RoBERTa or ModernBERT checkpoint as a model of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    source: Annotated[
        str, typer.Argument(help="A Hugging Face or sentence-transformers folder, or a name on the hub.")
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The model folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
) -> None:
    """Read config.json and safetensors of a stock layout and write a model folder.

    Nothing is lost: what our model has no place for (a pooler, a task head) is kept, and `encodery export hf` writes
    the checkpoint back bit for bit. Pooling, normalisation and length of sentence-transformers folders are kept too;
    a cross-encoder of one output becomes a model of the task `rank`, other stock heads one of `classify`, `tag`, `span`
    or `choice`.
    """
    from encodery.base.errors import SettingsError
    from encodery.base.parts import name_of
    from encodery.cli._screen import screen
    from encodery.finetune import artifact
    from encodery.model.load import load_model, save_model

    loaded = load_model(source)
    try:
        task, unread = artifact.foreign(loaded), ""
    except SettingsError as error:
        task, unread = None, f"Its head is kept, but not computed here: {error}"
    told, kept = ({}, {}) if task is None else artifact.contents(loaded.model, task)
    modules = loaded.modules() if task is None else {artifact.NAME: kept}
    parents = {"model": loaded.artifact} if loaded.artifact is not None else None
    figures = {"parameters": sum(p.numel() for p in loaded.model.parameters())}
    saved = save_model(
        out,
        loaded.model,
        loaded.tokenizer_path,
        settings={**loaded.settings, **told},
        modules=modules,
        origin=loaded.origin,
        parents=parents,
        figures=figures,
        overwrite=overwrite,
    )
    settings, console = loaded.model.settings, screen()
    layout = "ours" if loaded.origin is None else loaded.origin.door
    head = "with" if settings.head is not None else "without"
    console.print(
        f"{saved.path}: {figures['parameters']:,} parameters, {settings.depth} layers of width {settings.width}, "
        f"vocabulary {settings.vocab:,}, {head} a masked-language-model head (layout {layout})."
    )
    if task is not None and name_of(task.task) == "rank":
        console.print(f"Its head scores how well a text answers a query: `encodery search query INDEX --rerank {out}`.")
    elif task is not None:
        console.print(f"Its head is one of the task '{name_of(task.task)}': `encodery predict {out} ROWS`.")
    elif unread:
        console.print(unread, markup=False)
    if loaded.tokenizer_path is None:
        console.print("It came without a tokenizer: put tokenizer.json beside the weights and load it again.")
