"""float32 on the CPU, by an engine of our own in C++ (`src/native/`).

Equals `torch` to rounding: no number is less exact, sums are taken in another order. The weights are held a second
time, in the order in which the engine reads them. `runtimes/packed.py` says which models it runs. After a change of the
model a new engine is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encodery.runtimes.kind._packed import PackedRuntime
from encodery.runtimes.native import FP32


@dataclass(frozen=True, kw_only=True)
class PackedFP32(PackedRuntime):
    """Use it on a CPU to get the model's own vectors, faster than with PyTorch. `threads` and `kernels`: see
    `PackedRuntime`.

        encodery serve run --runtime packed_fp32
    """

    exact: ClassVar[bool] = True

    @property
    def number_format(self) -> int:
        return FP32
