"""Where the time of a run goes, and what could be done about it, in words.

A step is cut in three: waiting for its batches, telling the device what to compute, and what is left until the norm of
the gradient is known, with the optimiser's step. On an accelerator, which works behind the host, the last is what the
device still had to do when the host had told it everything: where that is next to nothing, the device waits for the
host. On a CPU the second is the work itself, and how far it is from the matrix peak tells the products are too small.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from encodery.model.ops.attention import AttentionKernel, AttentionSpec, select_kernel
from encodery.model.settings import ModelSettings
from encodery.model.shape import Layout
from encodery.train.expected_loss import LossRange

Stage = Literal["data", "compute", "update"]
STAGES: tuple[Stage, ...] = ("data", "compute", "update")
WARMUP_STEPS, MIN_STEPS = 10, 30  # steps of a sitting before the first is counted, and counted before anything is said
DATA_BOUND = 0.1  # share of the time spent on batches from which on a run is bound by its data
LAUNCH_BOUND = 0.15  # share of the time below which a device that works behind the host hardly ever lags behind it
LOW_UTILISATION = 0.3  # share of the matrix peak below which a CPU spends its time on something else
UPDATE_BOUND = 0.3  # share of the time spent on the optimiser from which on a CPU's steps are too small


@dataclass
class Diagnostics:
    """Seconds of each stage in `steps` steps, without the first ones of each sitting. `course`: how the held-out loss
    compares with that of other runs, in words; `warned`: whether it ever was unusual."""

    device: str
    seconds: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    steps: int = 0
    flops: float = 0.0
    warmup_left: int = WARMUP_STEPS
    loss_assessment: str = ""
    warned: bool = False

    @contextlib.contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Count the time within it."""
        start = time.perf_counter()
        yield
        if not self.warmup_left:
            self.seconds[stage] += time.perf_counter() - start

    def count_step(self, flops: float) -> None:
        """A step of so much arithmetic is over."""
        if self.warmup_left:
            self.warmup_left -= 1
            return
        self.flops += flops
        self.steps += 1

    def time_fraction(self, stage: Stage) -> float:
        """Of the time counted."""
        whole = sum(self.seconds.values())
        return self.seconds[stage] / whole if whole else 0.0

    @property
    def ready(self) -> bool:
        """Whether enough was seen to say something."""
        return self.steps >= MIN_STEPS

    def check_loss(self, loss: float, expected: LossRange | None) -> str | None:
        """Compare a held-out loss with what is usual; what to say of it, the first time that it is not."""
        self.loss_assessment = "" if expected is None else expected.describe(loss)
        if expected is None or expected.contains(loss) or self.warned:
            return None
        self.warned = True
        return self.loss_assessment

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"seconds": dict(self.seconds), "steps": self.steps, "flops": self.flops, "warned": self.warned}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.seconds = {stage: float(state["seconds"][stage]) for stage in STAGES}
        self.steps, self.flops, self.warned = int(state["steps"]), float(state["flops"]), bool(state["warned"])

    def summary(self, peak_flops: float) -> str:
        """What the run is bound by; `peak` in FLOP/s, 0 where unknown."""
        if self.time_fraction("data") >= DATA_BOUND:
            return (
                f"Data-bound: {self.time_fraction('data'):.0%} of the time goes into batches (read, packed, masked). Put the "
                "tokens on a faster disk, or make steps larger (train.batch_tokens)."
            )
        if self.device != "cpu":
            return self._behind()
        reached = self.flops / sum(self.seconds.values()) / peak_flops if peak_flops else 1.0
        if self.time_fraction("update") >= UPDATE_BOUND:
            return (
                f"Update-bound: {self.time_fraction('update'):.0%} of the time goes into clipping and the optimiser. Larger "
                "steps (train.batch_tokens) make fewer of them."
            )
        if reached < LOW_UTILISATION:
            return (
                f"Bound by memory and small operations: matrix products reach {reached:.0%} of this machine's peak. "
                "Larger micro-batches (train.micro_batch_tokens) or fewer threads (train.threads) may help; a wider model "
                "would use the machine better."
            )
        return f"Compute-bound, as it should be: {self.time_fraction('data'):.1%} of the time waits for data" + (
            f", matrix products reach {reached:.0%} of this machine's peak." if peak_flops else "."
        )

    def _behind(self) -> str:
        if self.time_fraction("update") < LAUNCH_BOUND:
            return (
                f"Launch-bound: the device is done almost as soon as it is told ({self.time_fraction('update'):.0%} of the "
                "time is waited for it). Larger micro-batches (train.micro_batch_tokens) or a larger model cost no time here."
            )
        return (
            f"Compute-bound, as it should be: {self.time_fraction('update'):.0%} of the time is waited for the device, "
            f"{self.time_fraction('data'):.1%} for data."
        )


def padded_attention_warning(
    settings: ModelSettings, layout: Layout, device: torch.device, dtype: torch.dtype
) -> str | None:
    """What attention over such a batch costs where it takes the slow path, in words; None where it does not.

    Both paths run forward once, after once to warm up. A device without a fast path for the dtype has nothing to
    compare with.
    """
    dropout = float(getattr(settings.attention, "dropout", 0.0))
    positions = settings.positions.build(settings.shape).to(device)
    bias = positions.bias(layout, settings.shape)
    needs = AttentionSpec(bias=bias is not None, dropout=dropout)
    better = needs._replace(dropout=0.0)
    slow, fast = (select_kernel(device.type, dtype, asked) for asked in (needs, better))
    if not slow.__module__.endswith(".padded"):
        return None
    why = f"weights have dropout {dropout:g}" if dropout else f"this device has no packed one in {_name(dtype)}"
    mend = "Set model.attention.dropout=0" if dropout else "Use train.precision=bf16 (or auto)"
    if slow is fast:
        return f"Attention is padded, since {why}. {mend}."
    shape = settings.shape

    def timed(attend: AttentionKernel, asked: AttentionSpec) -> float:
        return min(_seconds(lambda: attend(qkv, layout, asked, bias), device) for _ in range(2))

    with torch.no_grad(), torch.random.fork_rng():
        qkv = torch.randn(layout.tokens, 3, shape.heads, shape.head_size, device=device, dtype=dtype)
        ratio = timed(slow, needs) / max(timed(fast, better), 1e-9)
    return f"Attention is padded, since {why}: {ratio:.1f} times the time of the packed one here. {mend}."


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
