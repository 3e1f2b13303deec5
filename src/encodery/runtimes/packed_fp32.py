"""float32 on the CPU, by an engine of our own in C++ (`src/native/`).

Equals `torch` to rounding: no number is less exact, sums are in another order. Weights lie in memory a second time, in
the order in which they are read. What it runs stands in `_packed.py`. A change of the model needs a new engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encodery.runtimes._native import FP32
from encodery.runtimes._packed import PackedRuntime


@dataclass(frozen=True, kw_only=True)
class PackedFP32(PackedRuntime):
    """`threads`: None for as many as the process may use. `kernels`: None for the best that the processor has; "plain"
    is the reference that the others are tested against, and slow."""

    exact: ClassVar[bool] = True
    number_format: ClassVar[int] = FP32
