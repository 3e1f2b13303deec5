"""encodery adapt: give a model another vocabulary, length or size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    change: Annotated[str, typer.Argument(metavar="CHANGE", help="One of `encodery show surgery`.")],
    model: Annotated[str, typer.Argument(help="A model or run folder, or a Hugging Face folder.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[path=value ...]", help="Settings of the change.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.")] = ...,  # type: ignore[assignment]
    seed: Annotated[int, typer.Option(help="Of whatever is drawn at random.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
) -> None:
    """Write a changed copy of a model.

    vocabulary: tokenizer=FOLDER, or words=FILE for new words beside the pieces there are. lengthen: max_length=2048.
    grow, tile: width=512 depth=8, a larger model that starts from what this one learnt; coalesce: a smaller one.
    Train on from it: encodery pretrain RECIPE TOKENS init_from=DIR. To train a small part of a model instead of all of
    it, give adapt=lora (encodery show adapt) to what trains.
    """
    import torch

    from encodery.base.parts import find
    from encodery.base.settings import decode, overrides
    from encodery.cli._carry import carried, check_words
    from encodery.cli._screen import screen
    from encodery.model.load import load_model
    from encodery.surgery import Surgery

    part = decode(find(Surgery, change), overrides(settings or []), where=change)
    loaded = load_model(model)
    if change == "vocabulary":
        check_words(loaded)
    changed = part.operate(loaded, torch.Generator().manual_seed(seed))
    changed.save(out, loaded, part, carried(loaded, changed.model), overwrite)
    told = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in changed.figures.items())
    screen().print(f"{out}: {told}.", soft_wrap=True)
