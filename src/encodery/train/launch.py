"""Start and resume runs of any job: a run folder holds everything that is needed to continue.

`recipe.json` holds the job and its settings; `checkpoints/` holds the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from encodery.base import machine
from encodery.base.artifact import MANIFEST
from encodery.base.errors import InputError, SettingsError
from encodery.base.parts import find_part, name_of, part_names
from encodery.model.blocks import set_activation_checkpointing
from encodery.train import checkpoint
from encodery.train.checkpoint import Snapshot
from encodery.train.display import ConsoleDisplay, Display, SilentDisplay
from encodery.train.distributed import DistributedContext, init_distributed
from encodery.train.execution import Execution, RunningExecution
from encodery.train.job import Job, find_job
from encodery.train.loop import MODEL, Loop, RunResult, last_checkpoint
from encodery.train.memory_estimate import MemoryEstimate
from encodery.train.precision import NumberFormat, matmul_dtype
from encodery.train.preflight import MeasuredSpeed, RunForecast, measure_speed
from encodery.train.recipe import RECIPE, JobSettings, Recipe, read_recipe_table
from encodery.train.settings import TrainSettings
from encodery.train.step_log import drop_later_lines

if TYPE_CHECKING:
    from rich.console import Console

BuildJob = Callable[[DistributedContext, torch.device], Job]


def start(recipe: Recipe[Any], out: Path, console: Console | None = None, build: BuildJob | None = None) -> RunResult:
    """Run a new run in the folder `out`.

    Args: `build`: makes the job from what planning has already read (None: `Job.from_recipe`). If torchrun has
    restarted the processes (`--max-restarts`), the run continues from its last checkpoint. Raises `InputError` if the
    folder is not empty, `SettingsError` for settings that exclude each other, `UserError` with numbers if memory or
    disk do not suffice."""
    if machine.restart_count() and (out / RECIPE).is_file():
        return resume(out, console)
    check_empty(out)
    job_type, train = find_job(recipe.job), recipe.settings.train
    device = _device(train)
    strategy = choose_execution(job_type, recipe.settings, device)
    memory = job_type.memory_estimate(recipe)
    if memory is not None:
        memory.check(machine.memory_free(), machine.disk_free(out), _device_free(device))
    machine.set_threads(train.threads or machine.threads())
    with machine.retain_freed_memory(), init_distributed(device, train.fsdp) as distributed:
        distributed.barrier()
        job = job_type.from_recipe(recipe, distributed, device) if build is None else build(distributed, device)
        execution = _execute(job, train, strategy, distributed, device)
        speed = measure_speed(execution, recipe.settings, distributed)
        display = _display(console, distributed)
        if distributed.is_main:
            _announce(execution, train, memory or MemoryEstimate(0, 0), speed, out, display)
            out.mkdir(parents=True, exist_ok=True)
            recipe.write(out)
        run = _Run(execution, recipe.settings, out, distributed, display)
        return run.loop(speed.number_format, speed.reason, None)


def resume(folder: Path, console: Console | None = None) -> RunResult:
    """Continue a run from its last undamaged checkpoint: bit for bit on a CPU, given the same number of threads.

    Raises `InputError` if there is no unfinished run, `CheckpointError` if no checkpoint can be used or if settings or
    data have changed since."""
    recipe = read_recipe(folder)
    if (folder / MANIFEST).is_file() and (folder / MODEL).is_dir():
        raise InputError(
            f"{folder}: this run is finished. To continue from one of its checkpoints in a new run, give --out and "
            "either --decay or --budget."
        )
    job_type, train = find_job(recipe.job), recipe.settings.train
    device = _device(train)
    strategy = choose_execution(job_type, recipe.settings, device)
    with machine.retain_freed_memory(), init_distributed(device, train.fsdp) as distributed:
        display = _display(console, distributed)
        last = last_checkpoint(folder, distributed, display)
        threads = train.threads or (machine.threads() if last is None else int(last[1].state["threads"]))
        machine.set_threads(threads)
        distributed.barrier()
        job = job_type.from_recipe(recipe, distributed, device)
        execution = _execute(job, train, strategy, distributed, device)
        if last is None:
            display.warn("No checkpoint was written yet: the run starts again.")
            speed = measure_speed(execution, recipe.settings, distributed)
            number_format, reason = speed.number_format, speed.reason
        else:
            checkpoint.check_identity(last[1].state["identity"], job.identity(), str(last[0]))
            number_format, reason = last[1].state["precision"], "as before"
            if threads > machine.threads():
                display.warn(
                    f"The run had {threads} threads, this machine has {machine.threads()} cores: it will be slower."
                )
        if distributed.is_main:
            drop_later_lines(folder, 0 if last is None else checkpoint.step_of(last[0]))
        run = _Run(execution, recipe.settings, folder, distributed, display)
        return run.loop(number_format, reason, last[1] if last else None)


def read_recipe(folder: Path) -> Recipe[Any]:
    """The recipe of a run folder. Raises `InputError` if there is none or if it names no job."""
    return decode_recipe(read_recipe_table(folder))


def decode_recipe(table: Mapping[str, Any]) -> Recipe[Any]:
    """The recipe of a recipe.json. Raises `InputError` if it names no job, `SettingsError` for other settings than the
    job has."""
    return Recipe.decode(table, find_job(str(table.get("job", ""))).settings_type)


def choose_execution(job: type[Job], settings: JobSettings, device: torch.device) -> Execution:
    """The execution strategy that the settings of `train` select.

    Raises `SettingsError` if they select several, or one that cannot run this job with these settings.
    """
    strategies = [find_part(Execution, name)() for name in part_names(Execution)]
    selected = [strategy for strategy in strategies if strategy.selected(settings.train)]
    if len(selected) > 1:
        raise SettingsError(
            f"train: selects {' and '.join(name_of(strategy) for strategy in selected)}. train.fsdp, "
            "train.layerwise_offload, train.compile and train.cuda_graphs exclude each other: keep one of them."
        )
    if settings.train.fixed_shapes and not job.supports_static_shapes:
        raise SettingsError(f"train.static_shapes: the micro-batches of the job '{job.name()}' have no fixed shape.")
    strategy = selected[0] if selected else find_part(Execution, "plain")()
    for reason in strategy.incompatibilities(job, settings, device):
        raise SettingsError(reason)
    resizing = [name_of(hook) for hook in settings.hooks if hook.resizes]
    if resizing and (not strategy.supports_resizing or machine.world_size() > 1 or settings.train.optimizer_offload):
        raise SettingsError(
            f"hooks: {resizing[0]} makes the model smaller in the middle of a run, which needs one process without "
            "train.compile, train.cuda_graphs, train.fsdp, train.layerwise_offload and train.optimizer_offload."
        )
    return strategy


def check_empty(folder: Path) -> None:
    """Raise `InputError` if a folder cannot become a run folder; one that torchrun restarts already is one."""
    if machine.restart_count():
        return
    if (folder / RECIPE).is_file() and machine.rank() == 0:
        raise InputError(f"{folder}: holds a run already. `encodery resume {folder}` continues it.")
    if folder.is_dir() and any(folder.iterdir()) and machine.rank() == 0:
        raise InputError(f"{folder}: is not empty; choose another folder for the run.")


@dataclass(frozen=True, eq=False)
class _Run:
    """A run that is ready to loop."""

    execution: RunningExecution
    settings: JobSettings
    folder: Path
    distributed: DistributedContext
    display: Display

    def loop(self, number_format: NumberFormat, reason: str, snapshot: Snapshot | None) -> RunResult:
        """Run the loop, from a snapshot if there is one; the job is closed afterwards."""
        facts = _facts(self.execution.job, self.distributed, number_format, reason)
        try:
            loop = Loop(
                self.execution, self.folder, self.settings, self.distributed, self.display, number_format, facts
            )
            if snapshot is not None:
                loop.resume(snapshot)
            return loop.run()
        finally:
            self.execution.job.close()


def _execute(
    job: Job, train: TrainSettings, strategy: Execution, distributed: DistributedContext, device: torch.device
) -> RunningExecution:
    set_activation_checkpointing(job.module, train.activation_checkpointing)
    return strategy.build(job, distributed, device)


def _facts(job: Job, distributed: DistributedContext, number_format: NumberFormat, reason: str) -> dict[str, Any]:
    """Metrics that are known before the first step."""
    device = next(job.module.parameters()).device
    alone = distributed.world == 1
    return {
        "parameters": job.num_parameters,
        "precision": number_format,
        "precision_reason": reason,
        "matmul_peak": machine.matmul_peak(matmul_dtype(number_format), device) if alone else 0.0,
        "machine": {**machine.describe(), "threads": torch.get_num_threads()},
        "processes": distributed.world,
    }


def _announce(
    execution: RunningExecution,
    train: TrainSettings,
    memory: MemoryEstimate,
    speed: MeasuredSpeed,
    folder: Path,
    display: Display,
) -> None:
    """Show the forecast of a new run and its warnings."""
    job = execution.job
    forecast = RunForecast.make(train, speed.tokens_per_s, job.epoch_tokens, memory, (0.0, 0, 0))
    parameters = sum(p.numel() for p in job.module.parameters())
    device_free = _device_free(next(job.module.parameters()).device)
    free = machine.memory_free() if device_free is None else device_free
    for line in forecast.describe(speed, parameters, free, machine.disk_free(folder)):
        display.info(line)
    for line in (*job.warnings(matmul_dtype(speed.number_format)), *execution.warnings()):
        display.warn(line)


def _device(train: TrainSettings) -> torch.device:
    if train.device == "auto":
        return machine.device()
    try:
        device = torch.device(train.device)
    except RuntimeError as error:
        raise SettingsError(f"train.device = '{train.device}': must be cpu, cuda, cuda:1 or auto.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"train.device = '{train.device}': this machine has no CUDA device.")
    return torch.device("cuda", machine.local_rank()) if train.device == "cuda" else device


def _device_free(device: torch.device) -> int | None:
    """Free bytes of a CUDA device; None for the CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _display(console: Console | None, distributed: DistributedContext) -> Display:
    return ConsoleDisplay(console) if console is not None and distributed.is_main else SilentDisplay()
