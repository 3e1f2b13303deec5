"""encodery grow: pre-train a small model first, and a larger one that starts from what it learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[str, typer.Argument(help="The recipe of the large model (encodery show lists them).")],
    tokens: Annotated[Path, typer.Argument(help="A folder of packed ids, from `encodery tokens pack`.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[path=value ...]", help="Settings.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the stages to write.")] = ...,  # type: ignore[assignment]
    small: Annotated[str | None, typer.Option(help="The recipe of the small model.")] = None,
    cycle: Annotated[bool, typer.Option("--cycle", help="In place of --small: shrink the large one and back.")] = False,
    budget: Annotated[str | None, typer.Option(help="Of all stages together: 10m, 2h, 200Mtok, 500steps.")] = None,
    share: Annotated[float | None, typer.Option(help="Of the small model [default: 0.33; --cycle: 0.45].")] = None,
    lead: Annotated[float, typer.Option(help="With --cycle: share of the large model before it shrinks.")] = 0.05,
    mix: Annotated[float, typer.Option(help="With --cycle: how much of the small model's weights comes in.")] = 0.25,
) -> None:
    """Pre-train in stages: a model that grows.

    encodery grow mini TOKENS --small tiny --out DIR trains the model of the recipe tiny, grows it to the sizes of mini
    and trains that on. Settings are of both runs, but the model's sizes and optim.lr are the large one's.
    surgery.how=aki, surgery.layers=repeat say how to grow (encodery show surgery grow); surgery.is=tile is another way.

    encodery grow mini TOKENS --cycle --out DIR begins with the large model, makes a small one of it (surgery.depth=2
    and the like say how small), trains that, and brings it back.

    The same command again goes on where it was interrupted. The last stage is the run DIR/large.
    """
    from encodery.base import machine
    from encodery.base.errors import SettingsError
    from encodery.base.settings import overrides
    from encodery.cli._screen import screen
    from encodery.tokens.store import TokenStore
    from encodery.train import stages

    if (small is None) == (not cycle):
        raise SettingsError("Say which small model comes first: --small RECIPE, or --cycle to make one of the large.")
    over = overrides(settings or [])
    surgery = over.pop("surgery", {})
    if budget is not None:
        over.setdefault("train", {})["budget"] = budget
    store, console = TokenStore.open(tokens), screen(highlight=True)
    if small is not None:
        share = 1 / 3 if share is None else share
        staged = stages.grow(recipe, small, over, store, out, share, surgery, console)
    else:
        share = 0.45 if share is None else share
        staged = stages.cycle(recipe, over, store, out, lead, share, mix, surgery, console)
    if machine.rank():
        return
    if not staged.finished:
        console.print(f"stopped and saved in {staged.folder}. The same command goes on.", highlight=False)
        return
    loss = staged.figures.get("heldout_loss")
    told = f"[bold]{staged.folder}[/]: grown" + ("" if loss is None else f", held-out loss {loss:.3f}")
    console.print(told, highlight=False, soft_wrap=True)
