"""Number formats of a run: fp32, or bf16, which means products in bfloat16 and everything that adds up in fp32.

Weights, optimiser, averages and the sums of norms, softmax and loss stay in fp32; `torch.autocast` casts the operands
of matrix products. On a CPU this pays only where bfloat16 is multiplied in hardware, and not for every shape there, so
`auto` measures both on the run's own batches (`forecast`). Without such hardware bf16 is never chosen.
"""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

from encodery.base import machine
from encodery.base.errors import SettingsError
from encodery.train.settings import Precision

Format = Literal["fp32", "bf16"]
WORTH = 1.05  # how much faster bf16 must be


def formats(asked: Precision, device: torch.device) -> tuple[Format, ...]:
    """The formats to choose from: the one asked for, or those that the device does well.

    Raises `SettingsError` for bf16 on a CUDA device that has none.
    """
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else machine.native_bf16()
    if asked == "bf16" and device.type == "cuda" and not native:
        raise SettingsError("train.precision = 'bf16': this device has no bfloat16. Use fp32 or auto.")
    if asked == "auto":
        return ("fp32", "bf16") if native else ("fp32",)
    return (asked,)


def context(chosen: Format, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Within it a model computes in the chosen format."""
    if chosen == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def dtype(chosen: Format) -> torch.dtype:
    """The dtype of matrix products."""
    return torch.bfloat16 if chosen == "bf16" else torch.float32


def best(speeds: dict[Format, float]) -> tuple[Format, str]:
    """The format to use by tokens per second of each, and why, in words."""
    if len(speeds) == 1:
        only = next(iter(speeds))
        return only, "given" if only == "bf16" else "the only one this machine does well, or given"
    ratio = speeds["bf16"] / speeds["fp32"]
    chosen: Format = "bf16" if ratio >= WORTH else "fp32"
    return chosen, f"measured: bf16 is {ratio:.2f} times as fast as fp32 at this shape"
