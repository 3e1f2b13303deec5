"""How long, how fast and how carefully a run learns: the `train` table of every recipe."""

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
    *("activation_checkpointing", "fsdp", "optimizer_offload", "layerwise_offload", "static", "device", "threads"),
)
"""Settings of `train` on which no weight depends."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The loop's settings; every schedule runs over the progress 0..1 of the budget.

    `budget`: 10m, 2h, 3Btok, 500steps. `batch_tokens`: tokens of a step over all ranks, a schedule. `micro_batch_tokens`: at
    most so many go through the model at once; the rest of a batch follows in further micro-batches. `length`: the
    longest sequence, a schedule (absent: feed.max_length). `schedule`: factor of the optimiser's peak rate. `clip`:
    largest norm of the gradient, 0 for none. `seed`: of weights, order, masks and dropout.
    `eval_time_fraction`: time spent on held-out scores at most, as a share of the whole; `evals`: how many at most;
    `eval_tokens`: held-out tokens looked at in each, in the run's number format; four times as many in the last.
    `patience`: where a job keeps its best weights, end after so many scores without a higher one; 0: never.
    `checkpoint_every`: a time, tokens or steps; `keep`: how many checkpoints stay; `branch`: keep also the last one
    before the rate begins its final descent, from which another descent can start (`resume --decay`).
    `precision`: fp32, bf16, fp16 or fp8 (weights and sums stay in fp32; fp8 means linear layers, the rest is bf16), or
    auto: which of the first three is faster here.
    `recompute`: what of every layer is computed again when going backward instead of being kept in memory: nothing,
    attention, ffn, or the whole block.
    `shard`: of several processes each holds a share of the weights and moments instead of a copy (FSDP2).
    `offload`: the moments of the optimiser wait in main memory and come to the device a part at a time.
    `layered`: all micro-batches of a step go through a layer together, whose weights are on the device meanwhile only.
    `static`: micro-batches of one fixed shape of micro_batch_tokens (eager), by a step that is compiled once (compiled) and
    whose kernels are recorded as well (replayed; CUDA graphs).
    `device`: cpu, cuda, cuda:1, or auto. `threads`: of the CPU (absent: all this process may use).
    """

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
    fsdp: bool = False
    optimizer_offload: bool = False
    layerwise_offload: bool = False
    static: Literal["off", "eager", "compiled", "replayed"] = "off"
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        try:
            Budget.parse(self.checkpoint_every)
        except SettingsError as error:
            raise SettingsError(f"checkpoint_every: {error}") from error
        for name, schedule, least in (
            ("batch_tokens", self.batch_tokens, 1),
            ("seq_len_schedule", self.seq_len_schedule, 8),
        ):
            if schedule is not None and min(min(phase.start, phase.end) for phase in schedule.phases) < least:
                raise SettingsError(f"{name} = {schedule}: must never be below {least}.")
        for name, least in (
            ("micro_batch_tokens", 1),
            ("clip", 0),
            ("evals", 0),
            ("patience", 0),
            ("eval_tokens", 1),
            ("keep", 1),
        ):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} = {getattr(self, name)}: must be at least {least}.")
        compiled = self.static in ("compiled", "replayed")
        if self.fsdp and compiled:
            raise SettingsError(
                f"train.static = '{self.static}' needs whole weights: leave train.fsdp off, or take eager."
            )
        if self.fsdp and self.optimizer_offload:
            raise SettingsError(
                "train.optimizer_offload needs whole weights: leave train.fsdp off, which deals moments too."
            )
        if self.layerwise_offload and (self.fsdp or compiled):
            raise SettingsError(
                "train.layerwise_offload moves whole layers: leave train.fsdp off, and train.static uncompiled."
            )
        if not 0 <= self.eval_time_fraction < 1:
            raise SettingsError(
                f"eval_time_fraction = {self.eval_time_fraction}: is a share of the time, 0 <= share < 1."
            )
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"threads = {self.threads}: must be at least 1.")
