"""What of a job is compressed: the linear layers in the blocks of its encoder, which hold most of its arithmetic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from encodery.base.errors import SettingsError
from encodery.compress.quantize import Quantization, QuantizedLinear
from encodery.model.encoder import Encoder
from encodery.model.weights import Linear, LinearLayer


def linear_layers(encoder: Encoder) -> dict[str, tuple[nn.Module, str, Linear]]:
    """Name of each linear layer in the blocks → its owner, its attribute there, and the layer.

    Raises `SettingsError` if an adaptation has replaced or frozen them, or if there are none.
    """
    layers = {}
    for prefix, owner in encoder.blocks.named_modules():
        for name, child in owner.named_children():
            if isinstance(child, LinearLayer) and not (type(child) is Linear and child.weight.requires_grad):
                raise SettingsError(f"The layer {prefix}.{name} is adapted or frozen: compress without adapt=....")
            if isinstance(child, Linear):
                layers[f"{prefix}.{name}"] = (owner, name, child)
    if not layers:
        raise SettingsError("The model has no layers, so there is nothing to prune or to round.")
    return layers


def quantize(encoder: Encoder, quantization: Quantization) -> None:
    """Replace the linear layers of the blocks by quantised ones with the same parameters."""
    for owner, name, layer in linear_layers(encoder).values():
        setattr(owner, name, quantization.build(layer).train(layer.training))


@contextlib.contextmanager
def folded(encoder: Encoder) -> Iterator[None]:
    """Inside, quantised layers are plain ones with rounded weights, as the model is saved."""
    quantized = [
        (owner, name, child)
        for owner in encoder.blocks.modules()
        for name, child in owner.named_children()
        if isinstance(child, QuantizedLinear)
    ]
    for owner, name, layer in quantized:
        setattr(owner, name, layer.to_linear())
    try:
        yield
    finally:
        for owner, name, layer in quantized:
            setattr(owner, name, layer)
