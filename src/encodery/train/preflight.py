"""Before a run starts: the number format, the speed, and what the budget will reach, measured on the run's own batches.

The number format is the fastest in a few passes over one micro-batch. The speed is that of whole steps in this format,
each on a new batch whose preparation counts: the caches then hold what they hold during the run. Weights,
position in the data and generators are restored exactly, so the run is the same with and without this measurement."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from datetime import datetime, timedelta

import torch

from encodery.base import machine
from encodery.base.errors import SettingsError
from encodery.train.budget import Budget
from encodery.train.distributed import DistributedContext
from encodery.train.execution import RunningExecution
from encodery.train.job import StepBatches
from encodery.train.memory_estimate import MemoryEstimate, format_bytes
from encodery.train.optimizer_offload import offload_optimizer, optimizer_step
from encodery.train.optimizer_state import set_lr
from encodery.train.precision import NumberFormat, candidate_formats, fastest_format, set_linear_format
from encodery.train.recipe import JobSettings
from encodery.train.settings import TrainSettings
from encodery.train.step import forward_backward

REPEATS = 3  # passes in each format
STEPS = 20  # steps in the chosen format
MAX_EVAL_FRACTION = 0.25  # largest fraction of the time that scores are expected to take
ENOUGH_SECONDS = 1.0  # seconds of measurement after which no further pass or step is repeated


@dataclass(frozen=True)
class MeasuredSpeed:
    """Tokens per second over all ranks in the chosen number format, and the reason for the format."""

    number_format: NumberFormat
    reason: str
    tokens_per_s: float


@dataclass(frozen=True)
class RunForecast:
    """What a run will reach at the measured speed."""

    tokens: int
    steps: int
    seconds: float
    epochs: float
    memory: MemoryEstimate

    @classmethod
    def make(
        cls,
        settings: TrainSettings,
        speed: float,
        epoch_tokens: int,
        memory: MemoryEstimate,
        done: tuple[float, int, int],
    ) -> RunForecast:
        """The forecast for the rest of the budget; `speed` in tokens per second; `done`: seconds, tokens and steps."""
        budget = Budget.parse(settings.budget)
        left = budget.remaining(*done)
        mean = statistics.fmean(settings.batch_tokens(i / 100) for i in range(101))
        # A run that may score as often as it likes does not spend nearly all of its time on scores.
        training = 1 - (min(settings.eval_time_fraction, MAX_EVAL_FRACTION) if settings.evals else 0.0)
        tokens = {"seconds": left * speed * training, "tokens": left, "steps": left * mean}[budget.kind]
        seconds = tokens / speed / training
        return cls(int(tokens), round(tokens / mean), seconds, tokens / max(epoch_tokens, 1), memory)

    def describe(self, speed: MeasuredSpeed, parameters: int, memory_free: int, disk_free: int) -> list[str]:
        """The forecast in sentences."""
        end = datetime.now().astimezone() + timedelta(seconds=self.seconds)
        memory = self.memory
        host = f", and {format_bytes(memory.host_memory)} of main memory" if memory.host_memory else ""
        reach = f"{self.tokens / 1e6:,.1f} M tokens in {self.steps:,} steps, {self.epochs:.2f} epochs"
        return [
            f"{parameters / 1e6:,.1f} M parameters; {speed.number_format} ({speed.reason})",
            f"{speed.tokens_per_s:,.0f} tokens/s: about {reach}; ends at {end:%H:%M:%S} ({_duration(self.seconds)})",
            f"memory {format_bytes(memory.memory)} of {format_bytes(memory_free)} free, of which activations "
            f"{format_bytes(memory.activations)}{host}; "
            f"disk {format_bytes(memory.disk)} of {format_bytes(disk_free)} free",
        ]


def measure_speed(execution: RunningExecution, settings: JobSettings, distributed: DistributedContext) -> MeasuredSpeed:
    """Run a few micro-batches in each candidate format and a few steps in the fastest; restores everything."""
    job, train = execution.job, settings.train
    device = next(job.module.parameters()).device
    parameters = {name: p.detach().clone() for name, p in job.module.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in job.module.named_buffers()}
    state, generator = job.state(), torch.get_rng_state()
    job.module.train()
    batch = round(train.batch_tokens.maximum)
    size = min(batch, train.micro_batch_tokens * distributed.world)
    batches = job.batches(0, 0.0, size, None)
    seconds = _time_formats(execution, batches, distributed, candidate_formats(train.precision, device))
    if settings.optim is None:
        raise SettingsError("optim: the recipe names no optimiser.")
    optimizer = settings.optim.build(job.module, job.lr_scale)
    set_lr(optimizer, 0.0)
    if train.optimizer_offload:
        offload_optimizer(optimizer)
    shared, _ = distributed.synchronise(list(seconds.values()), False)
    shortest = dict(zip(seconds, shared, strict=True))
    speeds = {name: batches.tokens / spent for name, spent in shortest.items()}
    number_format, reason = fastest_format(speeds, train.precision)
    repeats = min(STEPS, max(1, round(ENOUGH_SECONDS / shortest[number_format])))
    set_linear_format(job.module, number_format)
    speed = _tokens_per_second(execution, size, distributed, number_format, optimizer, size / batch, repeats)
    with torch.no_grad():
        for name, p in job.module.named_parameters():
            p.copy_(parameters[name])
        for name, b in job.module.named_buffers():
            b.copy_(buffers[name])
    job.module.zero_grad(set_to_none=True)
    job.load_state(state)
    torch.set_rng_state(generator)
    return MeasuredSpeed(number_format, reason, distributed.synchronise([speed], False)[0][0])


def _tokens_per_second(
    execution: RunningExecution,
    size: int,
    distributed: DistributedContext,
    number_format: NumberFormat,
    optimizer: torch.optim.Optimizer,
    updates: float,
    repeats: int,
) -> float:
    """Tokens per second over batches of `size` tokens, each with the time of `updates` steps of the optimiser."""
    job = execution.job
    device = next(job.module.parameters()).device
    tokens = 0

    def run() -> None:
        nonlocal tokens
        job.module.zero_grad(set_to_none=True)
        batches = job.batches(0, 0.0, size, None)
        forward_backward(execution, batches, distributed, number_format, 0, 0)
        tokens += batches.tokens

    machine.seconds_of(lambda: optimizer_step(optimizer), device)  # creates the optimiser state
    seconds = 0.0
    for _ in range(repeats):
        seconds += machine.seconds_of(run, device) + updates * machine.seconds_of(
            lambda: optimizer_step(optimizer), device
        )
    return tokens / seconds


def _time_formats(
    execution: RunningExecution,
    batches: StepBatches,
    distributed: DistributedContext,
    candidates: tuple[NumberFormat, ...],
) -> dict[NumberFormat, float]:
    """Seconds of forward and backward in each format: the shortest of a few passes, in turns, after a warm-up."""
    job = execution.job
    device = next(job.module.parameters()).device
    spent: dict[NumberFormat, list[float]] = {name: [] for name in candidates}

    def run(name: NumberFormat) -> None:
        job.module.zero_grad(set_to_none=True)
        set_linear_format(job.module, name)
        forward_backward(execution, batches, distributed, name, 0, 0)

    warm_up = sum(machine.seconds_of(lambda name=name: run(name), device) for name in candidates)  # type: ignore[misc]
    repeats = 1 if distributed.synchronise([warm_up], False)[0][0] > ENOUGH_SECONDS * 2 else REPEATS
    for _ in range(repeats):
        for name in candidates:
            spent[name].append(machine.seconds_of(lambda name=name: run(name), device))  # type: ignore[misc]
    return {name: min(times) for name, times in spent.items()}


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
