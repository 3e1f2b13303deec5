"""Starting and resuming a run, whatever its job: what a run folder holds is enough to go on.

`recipe.json` names the job and holds its settings; `checkpoints/` holds the rest.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from encodery.base import machine
from encodery.base.artifact import MANIFEST, atomic_write
from encodery.base.errors import InputError, SettingsError
from encodery.base.settings import decode
from encodery.model.blocks import set_activation_checkpointing
from encodery.train import checkpoint
from encodery.train.checkpoint import Snapshot
from encodery.train.display import ConsoleDisplay, Display
from encodery.train.distributed import DistributedContext, init_distributed
from encodery.train.hooks import Hook
from encodery.train.job import Job
from encodery.train.loop import MODEL, RECIPE, Loop, RunResult, last_checkpoint
from encodery.train.memory_estimate import MemoryEstimate
from encodery.train.optim import Optimizer
from encodery.train.precision import matmul_dtype
from encodery.train.preflight import MeasuredSpeed, RunForecast, measure_speed
from encodery.train.settings import TrainSettings
from encodery.train.sharding import apply_fsdp
from encodery.train.step_log import drop_later_lines

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class _Plan:
    """What the loop itself needs of a recipe."""

    job: type[Job]
    train: TrainSettings
    optim: Optimizer
    hooks: tuple[Hook, ...]

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> _Plan:
        train = decode(TrainSettings, recipe["train"], "train")
        optim = decode(Optimizer, recipe["optim"], "optim")
        job = _job(recipe)
        if train.static != "off" and not job.supports_static_shapes:
            raise SettingsError(
                f"train.static = '{train.static}': {job.__name__} has no micro-batches of a fixed shape."
            )
        if train.layerwise_offload and not job.supports_fsdp:
            raise SettingsError(
                f"train.layerwise_offload: {job.__name__} needs whole models on the device; leave it off."
            )
        return cls(job, train, optim, decode(tuple[Hook, ...], recipe["hooks"], "hooks"))


def start(recipe: Mapping[str, Any], out: Path, console: Console | None = None) -> RunResult:
    """Run a new run in `folder`, from what a job's recipe says.

    Where torchrun has started the processes again (`--max-restarts`), the run goes on from its last checkpoint. Raises
    `InputError` if the folder holds something, `UserError` with numbers if memory or disk do not suffice.
    """
    if machine.restart_count() and (out / RECIPE).is_file():
        return resume(out, console)
    check_empty(out)
    plan = _Plan.of(recipe)
    needs = plan.job.memory_estimate(recipe)
    device = _device(plan.train)
    if needs is not None:
        needs.check(machine.memory_free(), machine.disk_free(out), _device_free(device))
    machine.set_threads(plan.train.threads or machine.threads())
    with machine.retain_freed_memory(), init_distributed(device, plan.train.fsdp) as crew:
        crew.barrier()
        job = plan.job.rebuild(recipe, crew, device)
        set_activation_checkpointing(job.module, plan.train.activation_checkpointing)
        apply_fsdp(job, crew)
        speed = measure_speed(job, plan.train, plan.optim, crew)
        display = _display(console, crew)
        if crew.is_main:
            _announce(job, plan.train, needs, speed, out, display, (0.0, 0, 0))
            out.mkdir(parents=True, exist_ok=True)
            atomic_write(out / RECIPE, json.dumps(dict(recipe), indent=1, ensure_ascii=False) + "\n")
        return _run(plan, job, out, crew, display, speed.number_format, speed.reason, None)


def resume(folder: Path, console: Console | None = None) -> RunResult:
    """Go on with a run from its last sound checkpoint, bit for bit on a CPU (given the same number of threads).

    Raises `InputError` where there is no unfinished run, `CheckpointError` if no checkpoint can be used or settings or
    data have changed since.
    """
    recipe = read_recipe(folder)
    if (folder / MANIFEST).is_file() and (folder / MODEL).is_dir():
        raise InputError(
            f"{folder}: this run is finished. To go on from one of its checkpoints into a new run, give --out with "
            "--decay or --budget."
        )
    plan = _Plan.of(recipe)
    device = _device(plan.train)
    with machine.retain_freed_memory(), init_distributed(device, plan.train.fsdp) as crew:
        display = _display(console, crew)
        found = last_checkpoint(folder, crew, display)
        threads = plan.train.threads or machine.threads()
        if found is not None:
            threads = plan.train.threads or int(found[1].state["threads"])
        machine.set_threads(threads)
        crew.barrier()
        job = plan.job.rebuild(recipe, crew, device)
        set_activation_checkpointing(job.module, plan.train.activation_checkpointing)
        apply_fsdp(job, crew)
        if found is None:
            display.warn("No checkpoint was written yet: the run starts again.")
            speed = measure_speed(job, plan.train, plan.optim, crew)
            chosen, reason = speed.number_format, speed.reason
        else:
            checkpoint.check_identity(found[1].state["identity"], job.identity(), str(found[0]))
            chosen, reason = found[1].state["precision"], "as before"
            if threads > machine.threads():
                display.warn(f"The run had {threads} threads, here are {machine.threads()} cores: it will be slower.")
        if crew.is_main:
            drop_later_lines(folder, 0 if found is None else checkpoint.step_of(found[0]))
        return _run(plan, job, folder, crew, display, chosen, reason, found[1] if found else None)


def read_recipe(folder: Path) -> dict[str, Any]:
    """A run's recipe.json. Raises `InputError` where there is none."""
    path = folder / RECIPE
    if not path.is_file():
        raise InputError(f"{folder}: has no {RECIPE}; a run is needed, as `encodery pretrain` writes it.")
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


def _run(
    plan: _Plan,
    job: Job,
    folder: Path,
    crew: DistributedContext,
    display: Display,
    chosen: Any,
    reason: str,
    snapshot: Snapshot | None,
) -> RunResult:
    facts = _facts(job, crew, chosen, reason)
    try:
        loop = Loop(job, folder, plan.train, plan.optim, plan.hooks, crew, display, chosen, facts)
        if snapshot is not None:
            loop.resume(snapshot)
        return loop.run()
    finally:
        job.close()


def _facts(job: Job, crew: DistributedContext, chosen: Any, reason: str) -> dict[str, Any]:
    device = next(job.module.parameters()).device
    return {
        "parameters": sum(p.numel() for p in job.module.parameters()),
        "precision": chosen,
        "precision_reason": reason,
        "matmul_peak": machine.matmul_peak(matmul_dtype(chosen), device) * crew.world if crew.world == 1 else 0.0,
        "machine": {**machine.describe(), "threads": torch.get_num_threads()},
        "processes": crew.world,
    }


def _announce(
    job: Job,
    train: TrainSettings,
    needs: MemoryEstimate | None,
    speed: MeasuredSpeed,
    folder: Path,
    display: Display,
    done: tuple[float, int, int],
) -> None:
    forecast = RunForecast.make(train, speed.tokens_per_s, job.epoch_tokens, needs or MemoryEstimate(0, 0), done)
    parameters = sum(p.numel() for p in job.module.parameters())
    device_free = _device_free(next(job.module.parameters()).device)
    free = machine.memory_free() if device_free is None else device_free
    for line in forecast.describe(speed, parameters, free, machine.disk_free(folder)):
        display.info(line)
    for line in job.warnings(matmul_dtype(speed.number_format)):
        display.warn(line)


def _job(recipe: Mapping[str, Any]) -> type[Job]:
    module, _, name = str(recipe.get("job", "")).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"recipe.json: there is no job '{recipe.get('job')}'.") from error
    if not (isinstance(found, type) and issubclass(found, Job)):
        raise InputError(f"recipe.json: '{recipe['job']}' is no job.")
    return found


def _device(train: TrainSettings) -> torch.device:
    if train.device == "auto":
        return machine.device()
    try:
        device = torch.device(train.device)
    except RuntimeError as error:
        raise SettingsError(f"train.device = '{train.device}': write cpu, cuda, cuda:1 or auto.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"train.device = '{train.device}': no CUDA device is there.")
    return torch.device("cuda", machine.local_rank()) if train.device == "cuda" else device


def _device_free(device: torch.device) -> int | None:
    """Bytes free on a CUDA device; None for the CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _display(console: Console | None, crew: DistributedContext) -> Display:
    return ConsoleDisplay(console) if console is not None and crew.is_main else Display()


def check_empty(folder: Path) -> None:
    """Raises `InputError` for a folder that cannot become a run; a run that torchrun starts again has become one."""
    if machine.restart_count():
        return
    if (folder / RECIPE).is_file() and machine.rank() == 0:
        raise InputError(f"{folder}: holds a run already. `encodery resume {folder}` goes on with it.")
    if folder.is_dir() and any(folder.iterdir()) and machine.rank() == 0:
        raise InputError(f"{folder}: is not empty; choose another folder for the run.")
