"""encodery pretrain: pre-train an encoder on encoded text for a given time, number of tokens or steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.cli._options import OutRun, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from encodery.tokens.store import TokenStore


def command(
    tokens: Annotated[
        Path, typer.Argument(metavar="TOKENS", help="A token folder that `encodery tokens encode` has written.")
    ],
    out: OutRun,
    settings: Settings = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", "-r", help="The name of a recipe that `encodery show` lists, or a TOML file of settings."
        ),
    ] = "tiny",
    budget: Annotated[
        str | None,
        typer.Option(
            help="How long to train: a time (10m, 2h), a number of tokens (200Mtok, 3Btok) or a number of "
            "steps (500steps) [default: the budget of the recipe]."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="The number of parameters, including embeddings, such as 1M, 30M or 0.4B. It sets width, "
            "depth, learning rate and batch size."
        ),
    ] = None,
) -> None:
    """Pre-train an encoder, by default as a masked language model.

    --size and --budget are enough: width, depth, learning rate and batch size follow the scaling rules in
    docs/pretrain.md. Settings on the command line override these rules.

    Settings are written as path=value, such as model.depth=4, optim.lr=2e-3, feed.max_length=256 or
    objective.corruption.rate="0.30 -> 0.15 linear". Schedules run over the whole budget. Ctrl-C saves a checkpoint and
    stops; `encodery resume RUN` continues the run. To train in several processes, use: torchrun --nproc-per-node N -m
    encodery pretrain ...

    init_from=MODEL continues the pre-training of an existing model; the tokens must have been encoded with its
    tokenizer. adapt=lora then trains only a small part of the weights (`encodery show adapt` lists the methods).

    `encodery pretrain grow TOKENS` pre-trains a small model first and grows it into a larger one.
    """
    from encodery.base.settings import merge_tables, parse_overrides
    from encodery.cli._screen import screen
    from encodery.cli.resume import report
    from encodery.tokens.store import TokenStore
    from encodery.train.launch import start
    from encodery.train.pretrain import pretrain_recipe
    from encodery.train.pretrain_settings import read_settings

    over = parse_overrides(settings or [])
    if budget is not None:
        over.setdefault("train", {})["budget"] = budget
    store = TokenStore.open(tokens)
    console = screen(highlight=True)
    if size is not None:
        over = merge_tables(_scaled(size, recipe, over, store, console), over)
    run = pretrain_recipe(read_settings(recipe, over, store), store, recipe)
    report(start(run, out, console), console)


def _scaled(size: str, recipe: str, over: dict[str, Any], store: TokenStore, console: Console) -> dict[str, Any]:
    """Return the settings that the scaling rules choose for a model size, and print the main ones."""
    from encodery.base.errors import SettingsError
    from encodery.base.settings import merge_tables
    from encodery.train.pretrain_settings import read_settings
    from encodery.train.scaling_rules import settings_for_size

    like = read_settings(recipe, {}, store)
    if like.init_from is not None or "init_from" in over:
        raise SettingsError(f"--size {size}: cannot be combined with init_from, whose model has its own sizes.")
    budget = over.get("train", {}).get("budget", like.train.budget)
    longest = over.get("feed", {}).get("max_length", like.feed.max_length)
    table = settings_for_size(size, like.model, str(budget), int(longest))
    chosen = merge_tables(table, over)
    model, train = chosen["model"], chosen["train"]
    console.print(
        f"{size}: {model['depth']} layers of width {model['width']}, learning rate {chosen['optim']['lr']}, "
        f"{train['batch_tokens']} tokens per step",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return table
