"""encodery resume: continue an interrupted run, or branch a new run from one of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from encodery.train.loop import RunResult


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder to continue.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Branch into this new run folder and leave RUN as it is.")
    ] = None,
    decay: Annotated[
        str | None,
        typer.Option(
            help="With --out: start to decay the learning rate at the checkpoint. The value is the length of the "
            "decay: a percentage of the new total budget (20%), or an amount in the unit of the run's budget (5m, "
            "2Mtok)."
        ),
    ] = None,
    budget: Annotated[str | None, typer.Option(help="With --out: the new total budget, such as 2h or 3Btok.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="With --out: the checkpoint to branch from, such as step-00001200 [default: the last one]."),
    ] = None,
) -> None:
    """Continue a run from its last intact checkpoint; on a CPU it then equals an uninterrupted run bit for bit.

    --out branches a new run from a checkpoint. --decay 20% ends a run whose learning rate is constant (a schedule such
    as wsd) by decaying the learning rate to zero; --budget 2h gives the new run another total budget.
    """
    from encodery.base.errors import SettingsError
    from encodery.cli._screen import screen
    from encodery.train.branch import branch
    from encodery.train.launch import resume

    console = screen(highlight=True)
    if out is not None:
        report(branch(run, out, decay=decay, budget=budget, checkpoint_name=checkpoint, console=console), console)
    elif decay or budget or checkpoint:
        raise SettingsError("--decay, --budget and --checkpoint branch a new run; give its folder with --out.")
    else:
        report(resume(run, console), console)


def report(result: RunResult, console: Console) -> None:
    """Print how a run ended, on rank 0 only."""
    from encodery.base import machine

    if machine.rank():
        return
    if stopped(result, console):
        return
    from encodery.train.display import describe_heldout

    metrics = result.metrics
    if "heldout_loss" in metrics:
        console.print(f"held-out loss {describe_heldout(metrics)}", highlight=False, soft_wrap=True)
    console.print(
        f"[bold]{result.folder}[/]: {metrics['tokens'] / 1e6:,.1f} M tokens in {metrics['steps']:,} steps, "
        f"{metrics['tokens_per_s']:,.0f} tokens/s",
        highlight=False,
        soft_wrap=True,
    )


def stopped(result: RunResult, console: Console) -> bool:
    """Return whether a run was interrupted before its end, after printing the command that continues it."""
    if not result.finished:
        console.print(f"Stopped; a checkpoint is saved at step {result.step:,}. Continue with:", highlight=False)
        console.print(f"  encodery resume {result.folder}", highlight=False, soft_wrap=True)
    return not result.finished
