"""The `train` table of every recipe: how long a run trains, in which steps, how it is watched and executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.model.blocks import ActivationCheckpointing
from encodery.train.budget import Budget

Precision = Literal["auto", "fp32", "bf16", "fp16", "fp8"]
DEFAULT_BATCH = Schedule.parse(8192)
DEFAULT_LR_SCHEDULE = Schedule.parse("linear(warmup=6%)")
NEUTRAL_SETTINGS = (
    *(
        "eval_time_fraction",
        "evals",
        "eval_tokens",
        "patience",
        "checkpoint_every",
        "keep",
        "keep_pre_decay_checkpoint",
    ),
    *("activation_checkpointing", "fsdp", "optimizer_offload", "layerwise_offload"),
    *("static_shapes", "compile", "cuda_graphs", "device", "threads"),
)
"""Settings of `train` that do not change the trained weights."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of the loop. Every schedule runs over the progress 0..1 of the budget.

    `budget`: 10m, 2h, 3Btok, 500steps. `batch_tokens`: tokens of a step over all ranks, a schedule.
    `micro_batch_tokens`: the largest number of tokens that go through the model at once; the rest of a batch follows in
    further micro-batches. `seq_len_schedule`: tokens of the longest sequence, a schedule (absent: feed.max_length).
    `lr_schedule`: factor on the peak learning rate of the optimiser. `clip`: largest norm of the gradient, 0 for no
    limit. `seed`: of weights, order of the data, masks and dropout. `eval_time_fraction`: largest fraction of the time
    spent on held-out scores; `evals`: largest number of scores; `eval_tokens`: held-out tokens of a score, computed in
    the number format of the run; the last score uses four times as many. `patience`: for jobs that keep their best
    weights, the run ends after this many scores without a better one; 0: never. `checkpoint_every`: a time, tokens or
    steps; `keep`: how many checkpoints are kept; `keep_pre_decay_checkpoint`: also keep the last checkpoint before the
    final decay of the learning rate, from which another decay can start (`resume --decay`). `precision`: fp32, bf16,
    fp16 or fp8 (weights and sums stay in fp32; fp8 applies to linear layers, the rest is bf16), or auto: the fastest of
    the first three on this device. `activation_checkpointing`: what of every layer is computed again in the backward
    pass instead of being kept in memory: nothing, attention, ffn, or the whole block. `optimizer_offload`: the
    optimiser state stays in main memory and moves to the device a part at a time. `fsdp`: weights, gradients and
    optimiser state are sharded over the processes. `layerwise_offload`: the weights of one layer at a time are on the
    device. `compile`: a step is one graph, compiled once. `cuda_graphs`: its kernels are recorded and replayed. Of
    these four at most one; the last two imply `static_shapes`. `static_shapes`: every micro-batch has the same shape of
    micro_batch_tokens. `device`: cpu, cuda, cuda:1, or auto. `threads`: of the CPU (absent: all that this process may
    use)."""

    budget: str = "10m"
    batch_tokens: Schedule = DEFAULT_BATCH
    micro_batch_tokens: int = 8192
    seq_len_schedule: Schedule | None = None
    lr_schedule: Schedule = DEFAULT_LR_SCHEDULE
    clip: float = 1.0
    seed: int = 0
    eval_time_fraction: float = 0.05
    evals: int = 20
    eval_tokens: int = 16_384
    patience: int = 0
    checkpoint_every: str = "5m"
    keep: int = 2
    keep_pre_decay_checkpoint: bool = True
    precision: Precision = "auto"
    activation_checkpointing: ActivationCheckpointing = "nothing"
    optimizer_offload: bool = False
    fsdp: bool = False
    layerwise_offload: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    static_shapes: bool = False
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        try:
            Budget.parse(self.checkpoint_every)
        except SettingsError as error:
            raise SettingsError(f"checkpoint_every: {error}") from error
        schedules = (("batch_tokens", self.batch_tokens, 1), ("seq_len_schedule", self.seq_len_schedule, 8))
        for name, schedule, minimum in schedules:
            if schedule is not None and min(min(phase.start, phase.end) for phase in schedule.phases) < minimum:
                raise SettingsError(f"{name} = {schedule}: must never be below {minimum}.")
        for name, minimum in (
            ("micro_batch_tokens", 1),
            ("clip", 0),
            ("evals", 0),
            ("patience", 0),
            ("eval_tokens", 1),
            ("keep", 1),
        ):
            if getattr(self, name) < minimum:
                raise SettingsError(f"{name} = {getattr(self, name)}: must be at least {minimum}.")
        if not 0 <= self.eval_time_fraction < 1:
            raise SettingsError(f"eval_time_fraction = {self.eval_time_fraction}: must be at least 0 and below 1.")
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"threads = {self.threads}: must be at least 1.")

    @property
    def fixed_shapes(self) -> bool:
        """Whether every micro-batch has one shape: `static_shapes`, or what implies it."""
        return self.static_shapes or self.compile or self.cuda_graphs
