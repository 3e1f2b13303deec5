"""encodery pretrain grow: pre-train a small model, grow it into a larger one, and train that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encodery.cli._options import OutFolder, Settings

SMALL_FRACTION, CYCLE_FRACTION = 1 / 3, 0.45


def command(
    tokens: Annotated[Path, typer.Argument(metavar="TOKENS", help="A token folder, from `encodery tokens encode`.")],
    out: OutFolder,
    settings: Settings = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="The recipe of the large model (`encodery show` lists them).")
    ] = "mini",
    small: Annotated[str | None, typer.Option(help="The recipe of the small model that is trained first.")] = None,
    cycle: Annotated[
        bool, typer.Option("--cycle", help="Instead of --small: shrink the large model, train that, and grow it back.")
    ] = False,
    budget: Annotated[
        str | None, typer.Option(help="The budget of all stages together: 10m, 2h, 200Mtok or 500steps.")
    ] = None,
    small_fraction: Annotated[
        float | None,
        typer.Option(help="The fraction of the budget spent on the small model [default: 0.33; with --cycle: 0.45]."),
    ] = None,
    large_first: Annotated[
        float, typer.Option(help="With --cycle: the fraction of the budget spent before the model is shrunk.")
    ] = 0.05,
    mix: Annotated[
        float, typer.Option(help="With --cycle: the weight of the small model when both are interpolated.")
    ] = 0.25,
) -> None:
    """Pre-train in stages: a small model that is grown into a larger one.

    encodery pretrain grow TOKENS --recipe mini --small tiny --out DIR trains the model of the recipe tiny, grows it to
    the sizes of mini and continues training. Settings apply to both stages, except the model's sizes and optim.lr,
    which are the large model's. surgery.method=aki and surgery.layers=repeat choose how to grow (`encodery show surgery
    grow`); surgery.is=tile is another method.

    encodery pretrain grow TOKENS --recipe mini --cycle --out DIR starts with the large model, coalesces it into a small
    one (surgery.depth=2 and similar settings choose its sizes), trains that, and grows it back.

    Run the same command again to continue an interrupted run. The last stage is the run DIR/large.
    """
    from encodery.base import machine
    from encodery.base.errors import SettingsError
    from encodery.base.settings import parse_overrides
    from encodery.cli._screen import screen
    from encodery.tokens.store import TokenStore
    from encodery.train import stages

    if (small is None) == (not cycle):
        raise SettingsError("Choose one: --small RECIPE for the model to train first, or --cycle to derive it.")
    over = parse_overrides(settings or [])
    surgery = over.pop("surgery", {})
    if budget is not None:
        over.setdefault("train", {})["budget"] = budget
    store, console = TokenStore.open(tokens), screen(highlight=True)
    training = stages.StagedTraining(recipe, over, store, out, console)
    if small is not None:
        fraction = SMALL_FRACTION if small_fraction is None else small_fraction
        staged = stages.grow(training, small, fraction, surgery)
    else:
        fraction = CYCLE_FRACTION if small_fraction is None else small_fraction
        staged = stages.cycle(training, large_first, fraction, mix, surgery)
    if machine.rank():
        return
    if not staged.finished:
        console.print(
            f"Stopped; a checkpoint is saved in {staged.folder}. Run the same command to continue.", highlight=False
        )
        return
    loss = staged.metrics.get("heldout_loss")
    line = f"[bold]{staged.folder}[/]: grown" + ("" if loss is None else f", held-out loss {loss:.3f}")
    console.print(line, highlight=False, soft_wrap=True)
