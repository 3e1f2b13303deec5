"""How long, how fast and how carefully a run learns: the `train` table of every recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.model.blocks import Recomputed
from encodery.train.budget import Budget

Precision = Literal["auto", "fp32", "bf16", "fp16", "fp8"]
USUAL_BATCH = Schedule.parse(8192)
USUAL_RATE = Schedule.parse("linear(warmup=6%)")
HARMLESS = (
    *("eval_share", "evals", "eval_tokens", "patience", "checkpoint_every", "keep", "branch"),
    *("recompute", "shard", "offload", "layered", "static", "device", "threads"),
)
"""Settings of `train` on which no weight depends."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The loop's settings; every schedule runs over the progress 0..1 of the budget.

    `budget`: 10m, 2h, 3Btok, 500steps. `batch_tokens`: tokens of a step over all ranks, a schedule. `micro_tokens`: at
    most so many go through the model at once; the rest of a batch follows in further micro-batches. `length`: the
    longest sequence, a schedule (absent: feed.max_length). `schedule`: factor of the optimiser's peak rate. `clip`:
    largest norm of the gradient, 0 for none. `seed`: of weights, order, masks and dropout.
    `eval_share`: time spent on held-out scores at most, as a share of the whole; `evals`: how many at most;
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
    `static`: micro-batches of one fixed shape of micro_tokens (eager), by a step that is compiled once (compiled) and
    whose kernels are recorded as well (replayed; CUDA graphs).
    `device`: cpu, cuda, cuda:1, or auto. `threads`: of the CPU (absent: all this process may use).
    """

    budget: str = "10m"
    batch_tokens: Schedule = USUAL_BATCH
    micro_tokens: int = 8192
    length: Schedule | None = None
    schedule: Schedule = USUAL_RATE
    clip: float = 1.0
    seed: int = 0
    eval_share: float = 0.05
    evals: int = 20
    eval_tokens: int = 16_384
    patience: int = 0
    checkpoint_every: str = "5m"
    keep: int = 2
    branch: bool = True
    precision: Precision = "auto"
    recompute: Recomputed = "nothing"
    shard: bool = False
    offload: bool = False
    layered: bool = False
    static: Literal["off", "eager", "compiled", "replayed"] = "off"
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        try:
            Budget.parse(self.checkpoint_every)
        except SettingsError as error:
            raise SettingsError(f"checkpoint_every: {error}") from error
        for name, schedule, least in (("batch_tokens", self.batch_tokens, 1), ("length", self.length, 8)):
            if schedule is not None and min(min(phase.start, phase.end) for phase in schedule.phases) < least:
                raise SettingsError(f"{name} = {schedule}: must never be below {least}.")
        for name, least in (
            ("micro_tokens", 1),
            ("clip", 0),
            ("evals", 0),
            ("patience", 0),
            ("eval_tokens", 1),
            ("keep", 1),
        ):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} = {getattr(self, name)}: must be at least {least}.")
        compiled = self.static in ("compiled", "replayed")
        if self.shard and compiled:
            raise SettingsError(
                f"train.static = '{self.static}' needs whole weights: leave train.shard off, or take eager."
            )
        if self.shard and self.offload:
            raise SettingsError("train.offload needs whole weights: leave train.shard off, which deals moments too.")
        if self.layered and (self.shard or compiled):
            raise SettingsError("train.layered moves whole layers: leave train.shard off, and train.static uncompiled.")
        if not 0 <= self.eval_share < 1:
            raise SettingsError(f"eval_share = {self.eval_share}: is a share of the time, 0 <= share < 1.")
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"threads = {self.threads}: must be at least 1.")
