"""encodery resume: go on with an interrupted run, or branch a new one off its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from encodery.train.loop import RunResult


def command(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Branch off into this new run folder.")] = None,
    decay: Annotated[
        str | None, typer.Option(help="With --out: let the rate fall now, over 20% of the new whole, or 5m, 2Mtok.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="With --out: another budget for the whole.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="With --out: where to branch off, such as step-00001200 [default: the last].")
    ] = None,
) -> None:
    """Go on from the last sound checkpoint, bit for bit as if the run had never stopped (on a CPU).

    With --out a new run branches off, and this one stays as it is: --decay 20% ends a run with a constant rate (a
    schedule such as wsd) by letting the rate fall to zero; --budget 2h gives it another horizon.
    """
    from encodery.base.errors import SettingsError
    from encodery.cli._screen import screen
    from encodery.train.branch import branch
    from encodery.train.launch import resume

    console = screen(highlight=True)
    if out is not None:
        report(branch(run, out, decay=decay, budget=budget, at=checkpoint, console=console), console)
    elif decay or budget or checkpoint:
        raise SettingsError("--decay, --budget and --checkpoint make a new run: say where with --out.")
    else:
        report(resume(run, console), console)


def report(result: RunResult, console: Console) -> None:
    """Say how a run ended; only on rank 0."""
    from encodery.base import machine

    if machine.rank():
        return
    if stopped(result, console):
        return
    figures = result.figures
    if "heldout_loss" in figures:
        console.print(
            f"held-out loss {figures['heldout_loss']:.3f}, {figures['heldout_accuracy']:.1%} of hidden tokens right, "
            f"{figures['bits_per_byte']:.3f} bits per byte",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"[bold]{result.folder}[/]: {figures['tokens'] / 1e6:,.1f} M tokens in {figures['steps']:,} steps, "
        f"{figures['tokens_per_s']:,.0f} tokens/s",
        highlight=False,
        soft_wrap=True,
    )


def stopped(result: RunResult, console: Console) -> bool:
    """Whether a run was asked to stop before its end; says how to go on with it."""
    if not result.finished:
        console.print(f"stopped and saved at step {result.step:,}. Go on with:", highlight=False)
        console.print(f"  encodery resume {result.folder}", highlight=False, soft_wrap=True)
    return not result.finished
