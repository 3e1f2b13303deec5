"""Checks of feed-forward layers. Shapes: T tokens, H width."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from encodery.base.settings import decode, encode
from encodery.model.ffn import FFN
from encodery.model.init.normal import NormalInit
from encodery.model.shape import Shape
from encodery.model.weights import LinearLayer

SHAPE = Shape(
    vocab_size=9,
    width=6,
    depth=2,
    heads=2,
    head_size=3,
    intermediate_size=10,
    max_length=4,
    type_vocab_size=0,
    embedding_size=6,
    layer=1,
)


def example(part: FFN) -> nn.Module:
    """Return a module with random weights, in fp64."""
    module = part.build(SHAPE)
    NormalInit(std=1.0).apply(module, SHAPE, torch.Generator().manual_seed(0))
    return module.double()


def example_states() -> Tensor:
    """Return hidden states (5, 6) that need a gradient, in fp64."""
    return torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


def check_settings_round_trip(part: FFN) -> None:
    """The part is what its settings decode to."""
    assert decode(FFN, encode(part)) == part


def check_linear_layers(part: FFN) -> None:
    """The module has linear layers `up`, which reads the width, and `down`, which writes it."""
    module = part.build(SHAPE)
    up, down = (getattr(module, name, None) for name in ("up", "down"))
    assert isinstance(up, LinearLayer), "`up` is no linear layer"
    assert isinstance(down, LinearLayer), "`down` is no linear layer"
    assert (up.in_features, down.out_features) == (SHAPE.width, SHAPE.width)
    assert down.role == "out", "`down` writes to the residual stream, so its role is 'out'"


def check_output_is_a_new_tensor(part: FFN) -> None:
    """The output is a contiguous tensor of the input's shape; the input is not written to."""
    x = example_states()
    before = x.detach().clone()
    y = example(part)(x)
    assert y.shape == x.shape
    assert y.is_contiguous(), "the output is not contiguous"
    assert y.data_ptr() != x.data_ptr(), "the output shares the memory of the input"
    assert torch.equal(x.detach(), before), "the input was changed"


def check_tokens_are_independent(part: FFN) -> None:
    """A token gets the same output alone, and no gradient reaches another token."""
    module, x = example(part), example_states()
    y = module(x)
    torch.testing.assert_close(module(x[2:3]), y[2:3])
    (grad,) = torch.autograd.grad(y[1].sum(), x)
    assert grad[1].any(), "no gradient reaches the token itself"
    assert not grad[[0, 2, 3, 4]].any(), "a gradient reaches another token"


def check_cost(part: FFN) -> None:
    """`cost` counts two operations per weight of a linear layer, and what is kept includes the layers' inputs."""
    layers = [layer for layer in part.build(SHAPE).modules() if isinstance(layer, LinearLayer)]
    cost = part.cost(SHAPE)
    assert cost.flops == 2 * sum(layer.weight.numel() for layer in layers)
    assert cost.kept >= sum(layer.in_features for layer in layers)


def check_gradient(part: FFN) -> None:
    """The gradient is that of finite differences."""
    torch.autograd.gradcheck(example(part), (example_states(),))


def check_bias_settings(part: FFN) -> None:
    """The settings `bias` and `bias_out` decide whether `up` and `down` have a bias."""
    for bias, bias_out in ((False, False), (True, False), (False, True), (True, True)):
        module = dataclasses.replace(part, bias=bias, bias_out=bias_out).build(SHAPE)  # type: ignore[type-var]
        expected = {f"{name}.bias" for name, has_bias in (("up", bias), ("down", bias_out)) if has_bias}
        biases = {key for key, _ in module.named_parameters() if key.endswith("bias")}
        assert biases == expected, f"bias = {bias}, bias_out = {bias_out}: the biases are {sorted(biases)}"
