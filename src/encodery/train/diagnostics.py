"""Where the time of a run goes and which setting would help, in sentences.

A step has three stages: waiting for its batches ("data"), launching the computation ("compute"), and the rest until the
norm of the gradient is known, with the step of the optimiser ("update"). An accelerator runs behind the host, so there
the last stage is the time in which the device finishes its work: if that is short, the device waits for the host. On a
CPU the second stage is the computation itself, and its distance from the matrix peak shows whether the products are too
small."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from encodery.base import machine
from encodery.model.attention.full import FullAttention
from encodery.model.ops.attention import AttentionKernel, AttentionSpec, select_kernel
from encodery.model.settings import ModelSettings
from encodery.model.shape import Layout
from encodery.objectives import LossRange

Stage = Literal["data", "compute", "update"]
STAGES: tuple[Stage, ...] = ("data", "compute", "update")
WARMUP_STEPS = 10  # steps after each start that are not counted
MIN_STEPS = 30  # steps that are counted before a summary is possible
JUDGED_FROM = 0.15  # the progress from which on the held-out loss of a run is compared with that of other runs
DATA_BOUND = 0.1  # fraction of the time spent on batches from which on a run is bound by its data
LAUNCH_BOUND = 0.15  # fraction of the time below which a device that runs behind the host hardly ever does
LOW_UTILISATION = 0.3  # fraction of the matrix peak below which a CPU spends its time on other operations
UPDATE_BOUND = 0.3  # fraction of the time spent on the update from which on the steps of a CPU are too small


@dataclass
class Diagnostics:
    """Seconds of each stage in `steps` steps, without the first steps after each start. `loss_assessment`: how the last
    held-out loss compares with that of other runs; `warned`: whether it was ever outside their range."""

    device: str
    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    steps: int = 0
    flops: float = 0.0
    warmup_left: int = WARMUP_STEPS
    loss_assessment: str = ""
    warned: bool = False

    @contextlib.contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Count the time inside."""
        start = time.perf_counter()
        yield
        if not self.warmup_left:
            self.seconds[stage] += time.perf_counter() - start

    def count_step(self, flops: float) -> None:
        """Count a finished step of `flops` floating-point operations."""
        if self.warmup_left:
            self.warmup_left -= 1
            return
        self.flops += flops
        self.steps += 1

    def time_fraction(self, stage: Stage) -> float:
        """The fraction of the counted time that a stage took."""
        whole = sum(self.seconds.values())
        return self.seconds[stage] / whole if whole else 0.0

    @property
    def ready(self) -> bool:
        """Whether enough steps were counted for a summary."""
        return self.steps >= MIN_STEPS

    def check_loss(self, loss: float, expected: LossRange | None) -> str | None:
        """Compare a held-out loss with the expected range; returns a warning the first time that it is outside."""
        self.loss_assessment = "" if expected is None else expected.describe(loss)
        if expected is None or expected.contains(loss) or self.warned:
            return None
        self.warned = True
        return self.loss_assessment

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"seconds": dict(self.seconds), "steps": self.steps, "flops": self.flops, "warned": self.warned}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.seconds = {stage: float(state["seconds"][stage]) for stage in STAGES}
        self.steps, self.flops, self.warned = int(state["steps"]), float(state["flops"]), bool(state["warned"])

    def summary(self, peak_flops: float) -> str:
        """What limits the speed of the run; `peak_flops`: floating-point operations per second, 0 if unknown."""
        data, update = self.time_fraction("data"), self.time_fraction("update")
        if data >= DATA_BOUND:
            return (
                f"Data-bound: {data:.0%} of the time goes into batches (reading, packing, masking). Put the tokens on "
                "a faster disk, or make steps larger (train.batch_tokens)."
            )
        if self.device != "cpu":
            return self._device_summary()
        reached = self.flops / sum(self.seconds.values()) / peak_flops if peak_flops else 1.0
        if update >= UPDATE_BOUND:
            return (
                f"Update-bound: {update:.0%} of the time goes into clipping and the optimiser. Larger steps "
                "(train.batch_tokens) make fewer of them."
            )
        if reached < LOW_UTILISATION:
            return (
                f"Bound by memory and small operations: matrix products reach {reached:.0%} of this machine's peak. "
                "Larger micro-batches (train.micro_batch_tokens) or fewer threads (train.threads) may help; a wider "
                "model would use the machine better."
            )
        return f"Compute-bound, as it should be: {data:.1%} of the time waits for data" + (
            f", matrix products reach {reached:.0%} of this machine's peak." if peak_flops else "."
        )

    def _device_summary(self) -> str:
        data, update = self.time_fraction("data"), self.time_fraction("update")
        if update < LAUNCH_BOUND:
            return (
                f"Launch-bound: the device waits for the host, which waits for the device in {update:.0%} of the time "
                "only. Larger micro-batches (train.micro_batch_tokens) or a larger model cost no time here."
            )
        return (
            f"Compute-bound, as it should be: {update:.0%} of the time is spent waiting for the device, "
            f"{data:.1%} for data."
        )


def padded_attention_warning(
    settings: ModelSettings, layout: Layout, device: torch.device, dtype: torch.dtype
) -> str | None:
    """A sentence with the price of padded attention over such a batch; None if attention runs without padding.

    Both kernels run forward once, after one run to warm up. On a device without a packed kernel for the dtype there is
    nothing to compare with.
    """
    if not isinstance(settings.attention, FullAttention) or "relative" in settings.positions.kinds:
        return None
    dropout = settings.attention.dropout
    positions = settings.positions.build(settings.shape).to(device)
    bias = positions.bias(layout, settings.shape)
    current = AttentionSpec(bias=bias is not None, dropout=dropout)
    better = current._replace(dropout=0.0)
    slow, fast = (select_kernel(device.type, dtype, spec) for spec in (current, better))
    if not slow.__module__.endswith(".padded"):
        return None
    cause = (
        f"its weights have dropout {dropout:g}" if dropout else f"this device has no packed kernel in {_name(dtype)}"
    )
    remedy = "Set model.attention.dropout=0" if dropout else "Use train.precision=bf16 (or auto)"
    if slow is fast:
        return f"Attention is padded, since {cause}. {remedy}."
    shape = settings.shape

    def seconds(kernel: AttentionKernel, spec: AttentionSpec) -> float:
        return min(machine.seconds_of(lambda: kernel(qkv, layout, spec, bias), device) for _ in range(2))

    with torch.no_grad(), torch.random.fork_rng():
        qkv = torch.randn(layout.tokens, 3, shape.heads, shape.head_size, device=device, dtype=dtype)
        ratio = seconds(slow, current) / max(seconds(fast, better), 1e-9)
    return (
        f"Attention is padded, since {cause}: it takes {ratio:.1f} times as long as the packed kernel here. {remedy}."
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
