"""8-bit numbers of linear layers: their products are near the original ones, and their scales are per channel."""

from __future__ import annotations

import numpy as np
import torch

from encodery.export._calibrate import LEVELS, calibrate
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.runtimes.onnx_graph import QuantisedLinear

SETTINGS = ModelSettings(width=32, depth=1, heads=2, vocab_size=50, max_length=40, head=None)


def batches() -> list[Batch]:
    draw = torch.Generator().manual_seed(0)
    lengths = ((20, 13), (31,), (7, 7, 5))
    return [
        Batch.from_sequences([torch.randint(0, 50, (n,), generator=draw).tolist() for n in batch]) for batch in lengths
    ]


def product(layer: QuantisedLinear, x: np.ndarray) -> np.ndarray:
    """The product that the engine computes: inputs (T, I) in unsigned 8 bits, weights in signed ones."""
    inputs = np.clip(np.round(x / layer.divisor / layer.step) + layer.zero, 0, LEVELS) - layer.zero
    outputs: np.ndarray = inputs @ layer.weights.T.astype(np.float32) * (layer.steps * layer.step)
    return outputs


def test_products_are_near_the_original_ones() -> None:
    encoder = build_model(SETTINGS, 1).eval().encoder
    layers = calibrate(encoder, batches())
    modules = {name: module for name, module in encoder.named_modules() if isinstance(module, torch.nn.Linear)}
    assert layers.keys() == modules.keys()
    for name, module in modules.items():
        inputs: list[torch.Tensor] = []
        hook = module.register_forward_pre_hook(lambda _, values, inputs=inputs: inputs.append(values[0]))
        with torch.inference_mode():
            encoder(batches()[0])
            expected = (inputs[0] @ module.weight.T).numpy()
        hook.remove()
        error = np.linalg.norm(product(layers[name], inputs[0].numpy()) - expected) / np.linalg.norm(expected)
        assert error < 0.02, f"{name}: {error:.4f}"


def test_weights_have_one_scale_per_output_and_keep_to_the_largest_weight() -> None:
    encoder = build_model(SETTINGS, 1).eval().encoder
    for largest in (127, 63):
        for name, layer in calibrate(encoder, batches(), largest).items():
            assert layer.steps.shape == (layer.weights.shape[0],), name
            assert layer.divisor.shape == (layer.weights.shape[1],), name
            assert np.abs(layer.weights.astype(int)).max(axis=1).tolist() == [largest] * len(layer.weights), name


def test_equal_texts_give_equal_numbers() -> None:
    encoder = build_model(SETTINGS, 1).eval().encoder
    first, second = (calibrate(encoder, batches()) for _ in range(2))
    assert all(np.array_equal(first[name].weights, second[name].weights) for name in first)
