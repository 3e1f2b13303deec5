"""Number formats of a run: fp32, or bf16 or fp16, which means products in 16 bits and everything that adds up in fp32;
or fp8: bf16, but in the linear layers of the blocks products in 8 bits.

Weights, optimiser, averages and the sums of norms, softmax and loss stay in fp32; `torch.autocast` casts the operands
of matrix products. That pays only where the hardware multiplies the format, and not for every shape there, so `auto`
measures on the run's own batches (`forecast`): bf16 where the device has it, else fp16 on a CUDA device, which then
needs the loss scaled up (`clip.GuardedStep`), since small gradients vanish in it. A format without such hardware is
never chosen; a run that goes on keeps the format it began with. fp8 is chosen only where it is asked for: what it costs
in what is learnt was measured nowhere yet.
"""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from torch import nn

from encodery.base import machine
from encodery.base.errors import SettingsError
from encodery.model.blocks import BlockModule
from encodery.model.ops.float8_linear.linear import supports
from encodery.model.weights import Linear
from encodery.train.settings import Precision

NumberFormat = Literal["fp32", "bf16", "fp16", "fp8"]
DTYPES: dict[NumberFormat, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,  # of everything but the layers that multiply 8 bits
}
HAS_FLOAT8 = (8, 9)  # compute capability
MIN_SPEEDUP = 1.05  # how much faster than fp32 another format must be
INITIAL_LOSS_SCALE = 2.0**16  # what a loss in fp16 is multiplied by at first


def candidate_formats(asked: Precision, device: torch.device) -> tuple[NumberFormat, ...]:
    """The formats to choose from: the one asked for, or those that the device does well.

    Raises `SettingsError` for bf16 or fp8 on a device that has none.
    """
    if asked == "fp8" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < HAS_FLOAT8):
        raise SettingsError(
            "train.precision = 'fp8': needs a CUDA device with 8-bit floats (compute capability 8.9 or higher). "
            "Use bf16 or auto."
        )
    # What PyTorch emulates on older devices is supported, but slower than fp32.
    native = torch.cuda.is_bf16_supported(False) if device.type == "cuda" else machine.native_bf16()
    if asked == "bf16" and device.type == "cuda" and not native:
        raise SettingsError("train.precision = 'bf16': this device has no bfloat16. Use fp16, fp32 or auto.")
    if asked != "auto":
        return (asked,)
    if native:
        return ("fp32", "bf16")
    return ("fp32", "fp16") if device.type == "cuda" else ("fp32",)


def set_linear_format(module: nn.Module, chosen: NumberFormat) -> None:
    """Let the linear layers of all blocks multiply in the chosen format; what `context` does not do by itself."""
    for block in module.modules():
        if isinstance(block, BlockModule):
            for layer in block.modules():
                if isinstance(layer, Linear):
                    layer.float8 = chosen == "fp8" and supports(layer.weight)


def autocast(chosen: NumberFormat, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Within it a model computes in the chosen format."""
    if chosen == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[chosen])


def matmul_dtype(chosen: NumberFormat) -> torch.dtype:
    """The dtype of matrix products."""
    return DTYPES[chosen]


def initial_loss_scale(chosen: NumberFormat) -> float:
    """What the loss is multiplied by at first."""
    return INITIAL_LOSS_SCALE if chosen == "fp16" else 1.0


def fastest_format(speeds: dict[NumberFormat, float], asked: Precision = "auto") -> tuple[NumberFormat, str]:
    """The format to use by tokens per second of each, and why, in words."""
    if asked != "auto":
        return asked, "as set"
    fastest = max(speeds, key=lambda kind: speeds[kind])
    others = [kind for kind in speeds if kind != "fp32"]
    if not others:
        return "fp32", "this machine multiplies no shorter format in hardware"
    ratio = speeds[others[0]] / speeds["fp32"]
    chosen: NumberFormat = fastest if ratio >= MIN_SPEEDUP else "fp32"
    return chosen, f"measured: {others[0]} is {ratio:.2f} times as fast as fp32 at this shape"
