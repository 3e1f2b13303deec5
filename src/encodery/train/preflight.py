"""Before a run starts: what it will reach, measured on its own batches.

The number format is chosen by the least time of a few passes over one micro-batch. The speed is that of whole steps in
it, each on a batch of its own, the drawing of which counts: what lies in the caches is then what lies there in the run.
Weights, data and generators are put back exactly, so the run is the same with and without it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import torch

from encodery.train.budget import Budget
from encodery.train.distributed import DistributedContext
from encodery.train.job import Job, StepBatches
from encodery.train.memory_estimate import MemoryEstimate, format_bytes
from encodery.train.optim import Optimizer, set_lr
from encodery.train.optimizer_offload import offload_optimizer, optimizer_step
from encodery.train.precision import NumberFormat, candidate_formats, fastest_format, set_linear_format
from encodery.train.settings import TrainSettings
from encodery.train.step import forward_backward

REPEATS = 3  # of a pass in each format
STEPS = 20  # in the one that was chosen
MAX_EVAL_FRACTION = 0.25  # share of the time that scores are expected to take at most
ENOUGH_SECONDS = 1.0  # seconds of measurement after which no further repeat is made, of passes and of steps


@dataclass(frozen=True)
class MeasuredSpeed:
    """Tokens per second over all ranks, in the format that was chosen, and why it was."""

    number_format: NumberFormat
    reason: str
    tokens_per_s: float


@dataclass(frozen=True)
class RunForecast:
    """What a run will reach, at the speed that was measured."""

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
        """For what is left of the budget, `done` being seconds, tokens and steps."""
        budget = Budget.parse(settings.budget)
        left = budget.remaining(*done)
        mean = statistics.fmean(settings.batch_tokens(i / 100) for i in range(101))
        # A run that may score as often as it likes does not spend nearly all its time on it.
        share = 1 - (min(settings.eval_time_fraction, MAX_EVAL_FRACTION) if settings.evals else 0.0)
        tokens = {"seconds": left * speed * share, "tokens": left, "steps": left * mean}[budget.kind]
        return cls(int(tokens), round(tokens / mean), tokens / speed / share, tokens / max(epoch_tokens, 1), memory)

    def describe(self, speed: MeasuredSpeed, parameters: int, memory_free: int, disk_free: int) -> list[str]:
        """In words."""
        end = datetime.now().astimezone() + timedelta(seconds=self.seconds)
        aside = f", and {format_bytes(self.memory.host_memory)} of main memory" if self.memory.host_memory else ""
        reach = f"{self.tokens / 1e6:,.1f} M tokens in {self.steps:,} steps, {self.epochs:.2f} epochs"
        return [
            f"{parameters / 1e6:,.1f} M parameters; {speed.number_format} ({speed.reason})",
            f"{speed.tokens_per_s:,.0f} tokens/s: about {reach}; ends at {end:%H:%M:%S} ({_span(self.seconds)})",
            f"memory {format_bytes(self.memory.memory)} of {format_bytes(memory_free)} free, of which activations "
            f"{format_bytes(self.memory.activations)}{aside}; "
            f"disk {format_bytes(self.memory.disk)} of {format_bytes(disk_free)} free",
        ]


def measure_speed(
    job: Job, settings: TrainSettings, optim: Optimizer, distributed: DistributedContext
) -> MeasuredSpeed:
    """Run a few micro-batches in each format that may be chosen, and steps in the one that is; everything is then put
    back."""
    device = next(job.module.parameters()).device
    held = {name: p.detach().clone() for name, p in job.module.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in job.module.named_buffers()}
    state, generator = job.state(), torch.get_rng_state()
    job.module.train()
    batch = round(settings.batch_tokens.maximum)
    size = min(batch, settings.micro_batch_tokens * distributed.world)
    work = job.batches(0, 0.0, size, None)
    times = _time_formats(job, work, distributed, candidate_formats(settings.precision, device), device)
    optimizer = optim.build(job.module, job.lr_scale)
    set_lr(optimizer, 0.0)
    if settings.optimizer_offload:
        offload_optimizer(optimizer)
    agreed, _ = distributed.synchronise(list(times.values()), False)
    least = dict(zip(times, agreed, strict=True))
    chosen, reason = fastest_format({kind: work.tokens / spent for kind, spent in least.items()}, settings.precision)
    speed = _pace(
        job,
        size,
        distributed,
        chosen,
        optimizer,
        size / batch,
        min(STEPS, max(1, round(ENOUGH_SECONDS / least[chosen]))),
    )
    with torch.no_grad():
        for name, p in job.module.named_parameters():
            p.copy_(held[name])
        for name, b in job.module.named_buffers():
            b.copy_(buffers[name])
    job.module.zero_grad(set_to_none=True)
    job.load_state(state)
    torch.set_rng_state(generator)
    return MeasuredSpeed(chosen, reason, distributed.synchronise([speed], False)[0][0])


def _pace(
    job: Job,
    size: int,
    team: DistributedContext,
    kind: NumberFormat,
    optimizer: torch.optim.Optimizer,
    updates: float,
    repeats: int,
) -> float:
    """Tokens per second over batches of `size` tokens, with the time of so much of an update for each."""
    device = next(job.module.parameters()).device
    set_linear_format(job.module, kind)
    seen = 0

    def run() -> None:
        nonlocal seen
        job.module.zero_grad(set_to_none=True)
        work = job.batches(0, 0.0, size, None)
        forward_backward(job, work, team, kind, 0, 0)
        seen += work.tokens

    _timed(lambda: optimizer_step(optimizer), device)  # Its state is made.
    seconds = 0.0
    for _ in range(repeats):
        seconds += _timed(run, device) + updates * _timed(lambda: optimizer_step(optimizer), device)
    return seen / seconds


def _time_formats(
    job: Job, work: StepBatches, team: DistributedContext, kinds: tuple[NumberFormat, ...], device: torch.device
) -> dict[NumberFormat, float]:
    """Seconds of forward and backward in each format: the least of a few, taken in turns after a warm-up."""
    spent: dict[NumberFormat, list[float]] = {kind: [] for kind in kinds}

    def run(kind: NumberFormat) -> None:
        job.module.zero_grad(set_to_none=True)
        set_linear_format(job.module, kind)
        forward_backward(job, work, team, kind, 0, 0)

    warm = {kind: _timed(lambda kind=kind: run(kind), device) for kind in kinds}  # type: ignore[misc]
    repeats = 1 if team.synchronise([sum(warm.values())], False)[0][0] > ENOUGH_SECONDS * 2 else REPEATS
    for _ in range(repeats):
        for kind in kinds:
            spent[kind].append(_timed(lambda kind=kind: run(kind), device))  # type: ignore[misc]
    return {kind: min(times) for kind, times in spent.items()}


def _timed(function: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
