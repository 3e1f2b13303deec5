"""Branching: a new run that goes on from a checkpoint of another, with another horizon.

With `decay` the final descent of a warm-up-stable-decay run (arXiv 2404.06395) starts at any of its checkpoints with a
constant rate, so one long run gives models of many lengths.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from encodery.base import machine
from encodery.base.artifact import atomic_write
from encodery.base.errors import ArtifactError, CheckpointError, SettingsError
from encodery.base.run_log import read_log
from encodery.base.settings import decode
from encodery.train import checkpoint
from encodery.train.budget import Budget
from encodery.train.checkpoint import Snapshot
from encodery.train.distributed import init_distributed
from encodery.train.launch import check_empty, read_recipe, resume
from encodery.train.loop import RECIPE, RunResult
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
    """A new run in `out` that goes on from a checkpoint of `run` with another horizon.

    `decay`: "20%" of the new whole, or an amount such as 5m or 2Mtok: from the checkpoint on, the rate falls to the
    schedule's last value by 1 - sqrt. `budget`: a new whole, with the schedule as it was. `at`: the checkpoint's name,
    such as step-00001200; by default the last sound one (with `decay`, the last whose rate was still at its peak).
    Schedules of other things (masks, lengths) follow the new horizon too. Raises `SettingsError`, `CheckpointError`.
    """
    if (decay is None) == (budget is None):
        raise SettingsError("A branch needs either a decay (20%, 5m, 2Mtok) or a new budget.")
    check_empty(out)
    recipe = read_recipe(run)
    folder, snapshot = _chosen(run, checkpoint_name, stable=decay is not None)
    train = decode(TrainSettings, recipe["train"], "train")
    clock = snapshot.state["clock"]
    done = (clock["elapsed"], clock["tokens"], clock["step"])
    table = {**recipe, "train": {**recipe["train"], **_horizon(train, done, decay, budget)}}
    table["branched_from"] = {"run": str(run.resolve()), "checkpoint": folder.name}
    if machine.rank() == 0:
        before = snapshot.state["identity"]
        after = {**before, "train": {**before["train"], **{k: table["train"][k] for k in ("budget", "lr_schedule")}}}
        snapshot.state |= {"identity": after, "pinned": decay is not None}
        out.mkdir(parents=True, exist_ok=True)
        lines = [line for line in read_log(run / LOG) if line.get("step", 0) <= done[2]]
        atomic_write(out / LOG, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        checkpoint.write(out, done[2], snapshot, {"job": recipe["job"]})
        atomic_write(out / RECIPE, json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    if machine.world_size() > 1:
        with init_distributed(torch.device("cpu")) as crew:
            crew.barrier()
    return resume(out, console)


def _horizon(
    train: TrainSettings, done: tuple[float, int, int], decay: str | None, budget: str | None
) -> dict[str, str]:
    """The new `budget` and `schedule`."""
    whole = Budget.parse(train.budget)
    used = whole.used(*done)
    if budget is not None:
        asked = Budget.parse(budget)
        if asked.kind != whole.kind or asked.amount <= used:
            raise SettingsError(
                f"budget {budget}: must be in {whole.kind}, as the run's {train.budget}, and more than the "
                f"{used:,.0f} already used."
            )
        return {"budget": budget, "lr_schedule": train.lr_schedule.text}
    assert decay is not None
    if decay.endswith("%"):
        share = _percent(decay)
        total = used / (1 - share)
    else:
        asked = Budget.parse(decay)
        if asked.kind != whole.kind:
            raise SettingsError(
                f"decay {decay}: must be in {whole.kind}, as the run's budget {train.budget}, or a percentage."
            )
        total = used + asked.amount
    # Whole tokens and steps; the rate is at its peak up to the checkpoint, and falls from there.
    total = total if whole.kind == "seconds" else float(round(total))
    peak, last = train.lr_schedule.maximum, min(train.lr_schedule.phases[-1].end, train.lr_schedule.maximum)
    floor = last if last < peak else 0.0
    fall = 100 * (1 - used / total)
    return {
        "budget": str(Budget(whole.kind, total)),
        "lr_schedule": f"{peak:g}; {peak:g} -> {floor:g} sqrt @ {fall!r}%",
    }


def _percent(text: str) -> float:
    try:
        share = float(text.rstrip("% ")) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise SettingsError(
            f"decay {text}: must be a percentage between 0% and 100%, or an amount such as 5m or 2Mtok."
        )
    return share


def _chosen(run: Path, at: str | None, stable: bool) -> tuple[Path, Snapshot]:
    """The checkpoint to branch from."""
    if at is not None:
        folder = run / checkpoint.FOLDER / at
        known = [path.name for path in checkpoint.list_checkpoints(run)]
        if at not in known:
            raise CheckpointError(f"{run}: there is no checkpoint '{at}'. There are {', '.join(known) or 'none'}.")
        folders = [folder]
    else:
        folders = list(reversed(checkpoint.list_checkpoints(run)))
    reasons = []
    for folder in folders:
        try:
            snapshot = checkpoint.read(checkpoint.verify_checkpoint(folder))
        except ArtifactError as error:
            reasons.append(str(error))
            continue
        if not stable or snapshot.state["stable"]:
            return folder, snapshot
        reasons.append(f"{folder.name}: the rate is not at its peak there")
    raise CheckpointError(
        f"{run}: no checkpoint to branch from ({'; '.join(reasons) or 'none was written'}). A decay starts where the "
        "rate is constant at its peak, as under train.lr_schedule = 'wsd(...)'."
    )
