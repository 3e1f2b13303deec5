"""8-bit integers on the CPU, by an engine of our own in C++ (`src/native/`). After arXiv:1910.06188, without training.

Weights have a scale for each output channel, activations one for each token, found as they come: no calibration.
Products are of 8-bit integers, everything between (norms, softmax, GELU, residual sums) is float32.

Differs from `torch`: hidden states are near the model's, not equal to them. What it runs stands in `_packed.py`. A
change of the model needs a new engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encodery.runtimes._native import INT8
from encodery.runtimes._packed import PackedRuntime


@dataclass(frozen=True, kw_only=True)
class PackedInt8(PackedRuntime):
    """`threads`: None for as many as the process may use. `kernels`: None for the best that the processor has; "plain"
    is the reference that the others are tested against, and slow."""

    number_format: ClassVar[int] = INT8
