"""Checks of quantisation, on a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.base.settings import decode, encode
from encodery.compress.quantize import Quantization
from encodery.model.weights import Linear

TOKENS, SIZE_IN, SIZE_OUT = 9, 16, 12


def example() -> tuple[Linear, Tensor]:
    """Return a layer and its input (T, I), whose rows are of different sizes."""
    draw = torch.Generator().manual_seed(0)
    layer = Linear(SIZE_IN, SIZE_OUT, bias=True)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) * torch.logspace(-2, 1, SIZE_OUT)[:, None])
        layer.bias.copy_(torch.randn(SIZE_OUT, generator=draw))
    return layer, torch.randn(TOKENS, SIZE_IN, generator=draw) * torch.logspace(-2, 1, TOKENS)[:, None]


def check_settings_round_trip(part: Quantization) -> None:
    """The part is what its settings decode to."""
    assert decode(Quantization, encode(part)) == part


def check_parameters_are_shared(part: Quantization) -> None:
    """The quantised layer has the parameters of the layer, under the same names, and no other tensors."""
    layer, _ = example()
    quantized = part.build(layer)
    assert quantized.weight is layer.weight
    assert quantized.bias is layer.bias
    assert quantized.state_dict().keys() == layer.state_dict().keys()


def check_outputs_are_near(part: Quantization) -> None:
    """Each row of the output is near that of the layer, but not equal."""
    layer, x = example()
    expected, rounded = layer(x), part.build(layer)(x)
    assert not torch.equal(expected, rounded), "nothing is rounded"
    error = (rounded - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < 0.1, f"a row differs by {float(error.max()):.0%}"


def check_gradients_pass_through_rounding(part: Quantization) -> None:
    """Weight, bias and input have about the gradients that they have without rounding."""
    layer, x = example()
    target = torch.randn(TOKENS, SIZE_OUT, generator=torch.Generator().manual_seed(1))
    grads = []
    for module in (layer, part.build(layer)):
        tensors = [x.clone().requires_grad_(), layer.weight, layer.bias]
        grads.append(torch.autograd.grad((module(tensors[0]) * target).sum(), tensors))
    for expected, rounded in zip(*grads, strict=True):
        assert (rounded - expected).norm() < 0.1 * expected.norm(), "a gradient is lost or changed by rounding"


def check_folding(part: Quantization) -> None:
    """The plain layer that is saved has the rounded weight, which rounding does not change again."""
    layer, _ = example()
    quantized = part.build(layer)
    plain = quantized.to_linear()
    assert type(plain) is Linear
    assert torch.equal(plain.weight, quantized.rounded_weight())
    assert plain.weight is not layer.weight
    torch.testing.assert_close(part.build(plain).rounded_weight(), plain.weight, rtol=1e-5, atol=1e-7)
    assert torch.equal(plain.bias, layer.bias)
