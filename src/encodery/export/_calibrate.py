"""8-bit numbers for the linear layers of an encoder, from texts, without training.

Channel by channel, the inputs of a layer are divided and its weights multiplied, so that both have similar ranges
(SmoothQuant, arXiv:2211.10438). The exponent that decides how much of the inputs' range moves into the weights is
chosen for each layer: the one of a few with the smallest error of the layer's output. Inputs have one scale per layer,
from their observed minimum and maximum; weights have one scale per output channel.
Shapes: T tokens, R tokens of a sample, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encodery.model.shape import Batch
from encodery.runtimes.onnx_graph import QuantisedLinear

EXPONENTS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
"""How much of the inputs' range moves into the weights: the exponents that are tried."""
SAMPLE_TOKENS = 512
LEVELS = 255
"""Steps of an input, which is unsigned."""
MIN_RANGE = 1e-5
"""Channels whose range is below this fraction of the largest are scaled as if they had this range."""


class _InputStatistics:
    """Inputs of one layer: minimum and maximum of each channel, and a sample (R, I)."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.sample: list[Tensor] = []

    def update(self, x: Tensor, sampled: Tensor) -> None:
        """Add the inputs x (T, I); `sampled` are the indices of those that are kept."""
        low, high = x.amin(0), x.amax(0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.sample.append(x[sampled].clone())


@torch.inference_mode()
def calibrate(encoder: nn.Module, batches: Iterable[Batch], max_weight: int = 127) -> dict[str, QuantisedLinear]:
    """Quantise the linear layers of an encoder.

    Args:
        encoder: The encoder, which is run on the batches.
        batches: Texts like those that will be encoded.
        max_weight: The largest 8-bit weight.

    Returns the quantised layers by their names in the encoder.
    """
    layers = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}
    statistics = {name: _InputStatistics() for name in layers}
    all_batches = list(batches)
    generator = torch.Generator().manual_seed(0)
    sampled = torch.zeros(0, dtype=torch.int64)

    def observe(name: str) -> Any:
        return lambda _, inputs: statistics[name].update(inputs[0], sampled)

    hooks = [module.register_forward_pre_hook(observe(name)) for name, module in layers.items()]
    try:
        for batch in all_batches:
            sampled = torch.randperm(batch.tokens, generator=generator)[: -(-SAMPLE_TOKENS // len(all_batches))]
            encoder(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _quantise(layers[name].weight, statistics[name], max_weight) for name in layers}


def _quantise(weight: Tensor, statistics: _InputStatistics, max_weight: int) -> QuantisedLinear:
    """Quantise a layer with each exponent, and return the one with the smallest error of the outputs."""
    sample = torch.cat(statistics.sample)
    expected = sample @ weight.T
    low, high = statistics.low, statistics.high
    assert low is not None
    assert high is not None
    weight_range, input_range = _clamped(weight.abs().amax(0)), _clamped(torch.maximum(-low, high))
    candidates: list[tuple[float, QuantisedLinear]] = []
    for exponent in EXPONENTS:
        divisor = input_range**exponent / weight_range ** (1 - exponent)
        smallest, largest = min(float((low / divisor).min()), 0.0), max(float((high / divisor).max()), 0.0)
        input_scale = max(largest - smallest, 1e-12) / LEVELS
        zero = round(-smallest / input_scale)
        weight_scales = (weight * divisor).abs().amax(1).clamp_min(1e-12) / max_weight
        integers = (weight * divisor / weight_scales[:, None]).round()
        inputs = ((sample / divisor / input_scale).round() + zero).clamp(0, LEVELS) - zero
        error = float((inputs @ integers.T * (weight_scales * input_scale) - expected).square().mean())
        quantised = QuantisedLinear(
            divisor.numpy(),
            np.float32(input_scale),
            zero,
            integers.to(torch.int8).numpy(),
            weight_scales.numpy(),
        )
        candidates.append((error, quantised))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _clamped(ranges: Tensor) -> Tensor:
    return ranges.clamp_min(MIN_RANGE * float(ranges.max()) + 1e-12)
