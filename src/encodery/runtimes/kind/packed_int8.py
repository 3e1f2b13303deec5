"""8-bit integers on the CPU, by an engine of our own in C++ (`src/native/`). After arXiv:1910.06188, without training.

Weights have a scale for each output channel, activations one for each token, computed as they come: no calibration.
Products are of 8-bit integers; everything between them (norms, softmax, GELU, residual sums) is float32.

Differs from `torch`: hidden states are near the model's, not equal to them. `runtimes/packed.py` says which models it
runs. After a change of the model a new engine is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.runtimes.kind._packed import PackedRuntime
from encodery.runtimes.native import INT8


@dataclass(frozen=True, kw_only=True)
class PackedInt8(PackedRuntime):
    """Use it on a CPU if speed matters more than the last digits. `threads` and `kernels`: see `PackedRuntime`.

    encodery serve run --runtime packed_int8
    """

    @property
    def number_format(self) -> int:
        return INT8
