"""encodery pretrain: train an encoder on packed text for a given time, number of tokens or steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[str, typer.Argument(help="A recipe (encodery show lists them) or a TOML file.")],
    tokens: Annotated[Path, typer.Argument(help="A folder of packed ids, from `encodery tokens pack`.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[path=value ...]", help="Settings.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder to write.")] = ...,  # type: ignore[assignment]
    budget: Annotated[str | None, typer.Option(help="10m, 2h, 200Mtok, 3Btok, 500steps.")] = None,
) -> None:
    """Pre-train a masked language model.

    Settings are given as path=value, such as model.depth=4, optim.lr=2e-3, feed.max_length=256 or
    objective.corruption.rate="0.30 -> 0.15 linear". Schedules follow the budget. Ctrl-C saves and leaves; `encodery
    resume RUN` goes on. On several processes: torchrun --nproc-per-node N -m encodery pretrain ...

    init_from=MODEL goes on from a trained model, whose tokenizer the tokens must be packed with; adapt=lora trains a
    small part of it (`encodery show adapt`).
    """
    from rich.console import Console

    from encodery.base.settings import overrides
    from encodery.cli.resume import report
    from encodery.tokens.store import TokenStore
    from encodery.train.launch import start
    from encodery.train.pretrain import read_settings, recipe_of

    over = overrides(settings or [])
    if budget is not None:
        over.setdefault("train", {})["budget"] = budget
    store = TokenStore.open(tokens)
    table = recipe_of(read_settings(recipe, over, store), store, recipe)
    console = Console()
    report(start(table, out, console), console)
