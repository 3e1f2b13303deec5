"""8-bit numbers for the linear layers of an encoder, found on texts, without training.

Inputs of a layer are divided channel by channel, and its weights multiplied, so that both have like ranges
(SmoothQuant, arXiv:2211.10438). How much of the inputs' spread goes over into the weights is not one number for all:
for each layer it is the one, of a few, by which the layer's output changes least. Inputs get one scale for all, from
the smallest and largest that were seen; weights one for each output channel.
Shapes: T tokens, R rows of a sample, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encodery.model.shape import Batch
from encodery.runtimes.onnx_graph import QuantisedLinear

SHARES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
ROWS = 512
LEVELS = 255  # Steps of an input, which is unsigned.
SMALLEST = 1e-5  # Channels that are never larger than this share of the largest are scaled as if they were.


class _Seen:
    """Inputs of one layer: the smallest and largest of each channel, and a sample of rows (R, I)."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.rows: list[Tensor] = []

    def take(self, x: Tensor, some: Tensor) -> None:
        """Inputs (T, I), and which of them are kept."""
        low, high = x.amin(0), x.amax(0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.rows.append(x[some].clone())


@torch.inference_mode()
def calibrate(encoder: nn.Module, batches: Iterable[Batch], max_weight: int = 127) -> dict[str, QuantisedLinear]:
    """By the names of the linear layers; `most`: the largest 8-bit weight."""
    layers = {name: part for name, part in encoder.named_modules() if isinstance(part, nn.Linear)}
    seen = {name: _Seen() for name in layers}
    held = list(batches)
    generator = torch.Generator().manual_seed(0)
    some = torch.zeros(0, dtype=torch.int64)

    def watch(name: str) -> Any:
        return lambda _, given: seen[name].take(given[0], some)

    watching = [part.register_forward_pre_hook(watch(name)) for name, part in layers.items()]
    try:
        for batch in held:
            some = torch.randperm(batch.tokens, generator=generator)[: -(-ROWS // len(held))]
            encoder(batch)
    finally:
        for hook in watching:
            hook.remove()
    return {name: _best(layers[name].weight, seen[name], max_weight) for name in layers}


def _best(weight: Tensor, seen: _Seen, most: int) -> QuantisedLinear:
    rows = torch.cat(seen.rows)
    expected = rows @ weight.T
    assert seen.low is not None
    assert seen.high is not None
    heaviest, largest = _floored(weight.abs().amax(0)), _floored(torch.maximum(-seen.low, seen.high))
    found: list[tuple[float, QuantisedLinear]] = []
    for share in SHARES:
        divisor = largest**share / heaviest ** (1 - share)
        low, high = (min(float((seen.low / divisor).min()), 0.0), max(float((seen.high / divisor).max()), 0.0))
        step = max(high - low, 1e-12) / LEVELS
        zero = round(-low / step)
        steps = (weight * divisor).abs().amax(1).clamp_min(1e-12) / most
        whole = (weight * divisor / steps[:, None]).round()
        inputs = ((rows / divisor / step).round() + zero).clamp(0, LEVELS) - zero
        apart = float((inputs @ whole.T * (steps * step) - expected).square().mean())
        numbers = whole.to(torch.int8).numpy()
        found.append((apart, QuantisedLinear(divisor.numpy(), np.float32(step), zero, numbers, steps.numpy())))
    return min(found, key=lambda one: one[0])[1]


def _floored(sizes: Tensor) -> Tensor:
    return sizes.clamp_min(SMALLEST * float(sizes.max()) + 1e-12)
