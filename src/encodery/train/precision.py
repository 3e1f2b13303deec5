"""Number formats of a run: fp32; bf16 or fp16, with 16-bit matrix products and everything that is summed in fp32; or
fp8, which is bf16 with 8-bit products in the linear layers of the blocks.

Weights, optimiser, averages and the sums of norms, softmax and loss stay in fp32; `torch.autocast` casts the operands
of matrix products. That is faster only if the hardware multiplies the format, and not for every shape, so `auto`
measures on the run's own batches (`preflight`): bf16 if the device has it, otherwise fp16 on a CUDA device, which needs
a scaled loss (`clip.GuardedStep`), since small gradients vanish in it. A format without such hardware is never chosen;
a resumed run keeps its format. fp8 is used only if it is set: its effect on the trained model was not measured yet."""

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
MIN_SPEEDUP = 1.05  # over fp32, for another format to be chosen
INITIAL_LOSS_SCALE = 2.0**16  # factor on the loss in fp16 at the start


def candidate_formats(precision: Precision, device: torch.device) -> tuple[NumberFormat, ...]:
    """The formats to choose from: the one that is set, or those that the device computes well.

    Raises `SettingsError` for bf16 or fp8 on a device that lacks it.
    """
    if precision == "fp8" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < HAS_FLOAT8):
        raise SettingsError(
            "train.precision = 'fp8': needs a CUDA device with 8-bit floats (compute capability 8.9 or higher). "
            "Use bf16 or auto."
        )
    # What PyTorch emulates on older devices is supported, but slower than fp32.
    native = torch.cuda.is_bf16_supported(False) if device.type == "cuda" else machine.native_bf16()
    if precision == "bf16" and device.type == "cuda" and not native:
        raise SettingsError("train.precision = 'bf16': this device has no bfloat16. Use fp16, fp32 or auto.")
    if precision != "auto":
        return (precision,)
    if native:
        return ("fp32", "bf16")
    return ("fp32", "fp16") if device.type == "cuda" else ("fp32",)


def set_linear_format(module: nn.Module, number_format: NumberFormat) -> None:
    """Set whether the linear layers of all blocks multiply in fp8; `autocast` does the rest."""
    for block in module.modules():
        if isinstance(block, BlockModule):
            for layer in block.modules():
                if isinstance(layer, Linear):
                    layer.float8 = number_format == "fp8" and supports(layer.weight)


def autocast(number_format: NumberFormat, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Inside, a model computes in the number format."""
    if number_format == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[number_format])


def matmul_dtype(number_format: NumberFormat) -> torch.dtype:
    """The dtype of matrix products."""
    return DTYPES[number_format]


def initial_loss_scale(number_format: NumberFormat) -> float:
    """The factor on the loss at the start."""
    return INITIAL_LOSS_SCALE if number_format == "fp16" else 1.0


def fastest_format(speeds: dict[NumberFormat, float], precision: Precision = "auto") -> tuple[NumberFormat, str]:
    """The format to use, given the tokens per second of each, and the reason in words."""
    if precision != "auto":
        return precision, "as set"
    fastest = max(speeds, key=lambda name: speeds[name])
    others = [name for name in speeds if name != "fp32"]
    if not others:
        return "fp32", "this machine has no hardware for shorter formats"
    ratio = speeds[others[0]] / speeds["fp32"]
    chosen: NumberFormat = fastest if ratio >= MIN_SPEEDUP else "fp32"
    return chosen, f"measured: {others[0]} is {ratio:.2f} times as fast as fp32 at this shape"
