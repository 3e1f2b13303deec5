"""encodery model edit: change the vocabulary, the maximum length or the size of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from encodery.cli._options import ModelArgument, OutModel, Overwrite, Settings


def command(
    model: ModelArgument,
    out: OutModel,
    surgery: Annotated[str, typer.Option("--surgery", "-s", help="The change, one of `encodery show surgery`.")],
    settings: Settings = None,
    seed: Annotated[int, typer.Option(help="The seed of everything that is drawn at random.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a changed copy of a model. Nothing is trained.

    vocabulary: tokenizer=FOLDER replaces the tokenizer, words=FILE adds new words to it. lengthen: max_length=2048.
    grow, tile: width=512 depth=8 makes a larger model that starts from what this one has learned; coalesce makes a
    smaller one. Continue training with: encodery pretrain TOKENS --recipe RECIPE init_from=OUT. To train a small part
    of a model instead of all of it, give adapt=lora to the training command (`encodery show adapt`).
    """
    import torch

    from encodery.base.parts import find_part
    from encodery.base.settings import decode, parse_overrides
    from encodery.cli._screen import screen
    from encodery.cli.model._carry import carried, check_vocabulary
    from encodery.model.load import load_model
    from encodery.surgery import Surgery

    part = decode(find_part(Surgery, surgery), parse_overrides(settings or []), where=surgery)
    loaded = load_model(model)
    if surgery == "vocabulary":
        check_vocabulary(loaded)
    changed = part.operate(loaded, torch.Generator().manual_seed(seed))
    changed.save(out, loaded, part, carried(loaded, changed.model), overwrite)
    line = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in changed.metrics.items())
    screen().print(f"{out}: {line}.", soft_wrap=True)
