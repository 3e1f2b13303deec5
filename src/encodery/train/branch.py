"""Branching: a new run that continues from a checkpoint of another run with another budget.

With `decay` the final decay of a warmup-stable-decay run (arXiv:2404.06395) starts at any of its checkpoints with a
constant learning rate, so one long run gives models of many lengths."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from encodery.base import machine
from encodery.base.artifact import atomic_write
from encodery.base.errors import ArtifactError, CheckpointError, SettingsError
from encodery.base.run_log import read_log
from encodery.base.schedule import Schedule
from encodery.train import checkpoint
from encodery.train.budget import Budget
from encodery.train.checkpoint import Snapshot
from encodery.train.distributed import init_distributed
from encodery.train.launch import check_empty, read_recipe, resume
from encodery.train.loop import RunResult
from encodery.train.settings import TrainSettings
from encodery.train.step_log import LOG

if TYPE_CHECKING:
    from rich.console import Console


def branch(
    run: Path,
    out: Path,
    decay: str | None = None,
    budget: str | None = None,
    checkpoint_name: str | None = None,
    console: Console | None = None,
) -> RunResult:
    """Continue from a checkpoint of `run` in a new run in `out`, with another budget.

    Args: `decay`: "20%" of the new whole, or an amount such as 5m or 2Mtok: from the checkpoint on, the learning rate
    falls to the last value of the schedule by 1 - sqrt. `budget`: a new whole budget, with the schedule as it was.
    `checkpoint_name`: such as step-00001200; by default the last undamaged one (with `decay`, the last one at the peak
    learning rate). Other schedules (masks, lengths) follow the new budget too. Raises `SettingsError`,
    `CheckpointError`."""
    if (decay is None) == (budget is None):
        raise SettingsError("A branch needs either a decay (20%, 5m, 2Mtok) or a new budget.")
    check_empty(out)
    recipe = read_recipe(run)
    folder, snapshot = _choose_checkpoint(run, checkpoint_name, at_peak_lr=decay is not None)
    clock = snapshot.state["clock"]
    done = (clock["elapsed"], clock["tokens"], clock["step"])
    new_budget, lr_schedule = _horizon(recipe.settings.train, done, decay, budget)
    origin = {"run": str(run.resolve()), "checkpoint": folder.name}
    recipe = dataclasses.replace(recipe.with_train(budget=new_budget, lr_schedule=lr_schedule), branched_from=origin)
    if machine.rank() == 0:
        identity = snapshot.state["identity"]
        train = {**identity["train"], "budget": new_budget, "lr_schedule": lr_schedule.text}
        snapshot.state |= {"identity": {**identity, "train": train}, "pre_decay_saved": decay is not None}
        out.mkdir(parents=True, exist_ok=True)
        lines = [line for line in read_log(run / LOG) if line.get("step", 0) <= done[2]]
        atomic_write(out / LOG, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        checkpoint.write(out, done[2], snapshot, {"job": recipe.job})
        recipe.write(out)
    if machine.world_size() > 1:
        with init_distributed(torch.device("cpu")) as distributed:
            distributed.barrier()
    return resume(out, console)


def _horizon(
    train: TrainSettings, done: tuple[float, int, int], decay: str | None, budget: str | None
) -> tuple[str, Schedule]:
    """The new budget and learning rate schedule; `done`: seconds, tokens and steps at the checkpoint."""
    whole = Budget.parse(train.budget)
    used = whole.used(*done)
    if budget is not None:
        new = Budget.parse(budget)
        if new.kind != whole.kind or new.amount <= used:
            raise SettingsError(
                f"budget {budget}: must be in {whole.kind}, as the run's {train.budget}, and more than the "
                f"{used:,.0f} already used."
            )
        return budget, train.lr_schedule
    assert decay is not None
    if decay.endswith("%"):
        total = used / (1 - _percentage(decay))
    else:
        amount = Budget.parse(decay)
        if amount.kind != whole.kind:
            raise SettingsError(
                f"decay {decay}: must be in {whole.kind}, as the run's budget {train.budget}, or a percentage."
            )
        total = used + amount.amount
    # Tokens and steps are whole numbers; the learning rate is at its peak up to the checkpoint and falls from there.
    total = total if whole.kind == "seconds" else float(round(total))
    peak, last = train.lr_schedule.maximum, min(train.lr_schedule.phases[-1].end, train.lr_schedule.maximum)
    floor = last if last < peak else 0.0
    percentage = 100 * (1 - used / total)
    schedule = f"{peak:g}; {peak:g} -> {floor:g} sqrt @ {percentage!r}%"
    return str(Budget(whole.kind, total)), Schedule.parse(schedule)


def _percentage(text: str) -> float:
    try:
        fraction = float(text.rstrip("% ")) / 100
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        raise SettingsError(
            f"decay {text}: must be a percentage between 0% and 100%, or an amount such as 5m or 2Mtok."
        )
    return fraction


def _choose_checkpoint(run: Path, name: str | None, at_peak_lr: bool) -> tuple[Path, Snapshot]:
    """The checkpoint to branch from: the one named, or the last one that can be used."""
    if name is not None:
        known = [path.name for path in checkpoint.list_checkpoints(run)]
        if name not in known:
            raise CheckpointError(f"{run}: has no checkpoint '{name}'. Its checkpoints: {', '.join(known) or 'none'}.")
        folders = [run / checkpoint.FOLDER / name]
    else:
        folders = list(reversed(checkpoint.list_checkpoints(run)))
    reasons = []
    for folder in folders:
        try:
            snapshot = checkpoint.read(checkpoint.verify_checkpoint(folder))
        except ArtifactError as error:
            reasons.append(str(error))
            continue
        if not at_peak_lr or snapshot.state["at_peak_lr"]:
            return folder, snapshot
        reasons.append(f"{folder.name}: the learning rate is not at its peak")
    raise CheckpointError(
        f"{run}: has no checkpoint to branch from ({'; '.join(reasons) or 'none was written'}). A decay starts where "
        "the learning rate is constant at its peak, as under train.lr_schedule = 'wsd(...)'."
    )
