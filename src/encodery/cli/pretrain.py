"""encodery pretrain: train an encoder on packed text for a given time, number of tokens or steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from encodery.tokens.store import TokenStore


def command(
    recipe: Annotated[str, typer.Argument(help="A recipe (encodery show lists them) or a TOML file.")],
    tokens: Annotated[Path, typer.Argument(help="A folder of packed ids, from `encodery tokens pack`.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[path=value ...]", help="Settings.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder to write.")] = ...,  # type: ignore[assignment]
    budget: Annotated[str | None, typer.Option(help="10m, 2h, 200Mtok, 3Btok, 500steps.")] = None,
    size: Annotated[str | None, typer.Option(help="Parameters: 1M, 30M, 0.4B; sets sizes, rate and batch.")] = None,
) -> None:
    """Pre-train a masked language model.

    --size and --budget are enough: width, depth, rate and batch follow stated rules (docs/pretrain.md), and what is
    given as a setting goes before them.

    Settings are given as path=value, such as model.depth=4, optim.lr=2e-3, feed.max_length=256 or
    objective.corruption.rate="0.30 -> 0.15 linear". Schedules follow the budget. Ctrl-C saves and leaves; `encodery
    resume RUN` goes on. On several processes: torchrun --nproc-per-node N -m encodery pretrain ...

    init_from=MODEL goes on from a trained model, whose tokenizer the tokens must be packed with; adapt=lora trains a
    small part of it (`encodery show adapt`).
    """
    from encodery.base.settings import merge, overrides
    from encodery.cli._screen import screen
    from encodery.cli.resume import report
    from encodery.tokens.store import TokenStore
    from encodery.train.launch import start
    from encodery.train.pretrain import recipe_of
    from encodery.train.pretrain_settings import read_settings

    over = overrides(settings or [])
    if budget is not None:
        over.setdefault("train", {})["budget"] = budget
    store = TokenStore.open(tokens)
    console = screen(highlight=True)
    if size is not None:
        over = merge(_sized(size, recipe, over, store, console), over)
    table = recipe_of(read_settings(recipe, over, store), store, recipe)
    report(start(table, out, console), console)


def _sized(size: str, recipe: str, over: dict[str, Any], store: TokenStore, console: Console) -> dict[str, Any]:
    """What a size decides of a recipe's settings, and says so."""
    from encodery.base.errors import SettingsError
    from encodery.base.settings import merge
    from encodery.train.ladder import settings_of
    from encodery.train.pretrain_settings import read_settings

    like = read_settings(recipe, {}, store)
    if like.init_from is not None or "init_from" in over:
        raise SettingsError(f"--size {size}: with init_from, sizes are those of the model it begins with.")
    budget = over.get("train", {}).get("budget", like.train.budget)
    longest = over.get("feed", {}).get("max_length", like.feed.max_length)
    table = settings_of(size, like.model, str(budget), int(longest))
    said = merge(table, over)
    model, train = said["model"], said["train"]
    console.print(
        f"{size}: {model['depth']} x {model['width']}, rate {said['optim']['lr']}, steps of {train['batch_tokens']} "
        "tokens",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return table
