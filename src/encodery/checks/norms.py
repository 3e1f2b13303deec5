"""Checks of norms, on states with a mean of about 0 and a standard deviation of about 7. Shapes: T tokens, H width."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from encodery.base.settings import decode, encode
from encodery.model.norms import Norm

WIDTH = 16


def example(part: Norm) -> nn.Module:
    """Return the module as it is built, in fp64."""
    return part.build(WIDTH).double()


def example_states() -> Tensor:
    """Return hidden states (4, 16) that need a gradient, in fp64."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(4, WIDTH, dtype=torch.float64, generator=generator) * 7).requires_grad_()


def check_settings_round_trip(part: Norm) -> None:
    """The part is what its settings decode to."""
    assert decode(Norm, encode(part)) == part


def check_initial_weights(part: Norm) -> None:
    """The weight starts at one and the bias, if there is one, at zero."""
    parameters = dict(example(part).named_parameters())
    assert parameters.keys() <= {"weight", "bias"}, f"the parameters are {sorted(parameters)}"
    assert torch.equal(parameters["weight"], torch.ones(WIDTH, dtype=torch.float64))
    assert "bias" not in parameters or not parameters["bias"].any(), "the bias does not start at zero"


def check_bias_setting(part: Norm) -> None:
    """The setting `bias` decides whether there is a bias."""
    for bias in (False, True):
        module = dataclasses.replace(part, bias=bias).build(WIDTH)  # type: ignore[type-var]
        assert (dict(module.named_parameters()).get("bias") is not None) == bias, f"bias = {bias} is ignored"


def check_weight_and_bias_are_applied(part: Norm) -> None:
    """The normalised states are multiplied by the weight, and the bias, if there is one, is added."""
    module, x = example(part), example_states()
    normalised = module(x)
    generator = torch.Generator().manual_seed(1)
    expected = normalised.detach().clone()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn(WIDTH, dtype=torch.float64, generator=generator))
            expected = expected * parameter if name == "weight" else expected + parameter
    torch.testing.assert_close(module(x).detach(), expected)


def check_mean_square_is_one(part: Norm) -> None:
    """The mean square of each normalised token is one."""
    y = example(part)(example_states())
    torch.testing.assert_close(y.square().mean(1), torch.ones(4, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def check_scale_does_not_matter(part: Norm) -> None:
    """States that are multiplied by a number give the same output."""
    module, x = example(part), example_states()
    torch.testing.assert_close(module(x * 3), module(x), rtol=1e-5, atol=1e-5)


def check_tokens_are_independent(part: Norm) -> None:
    """A token gets the same output alone."""
    module, x = example(part), example_states()
    torch.testing.assert_close(module(x[1:2]), module(x)[1:2])


def check_input_is_not_modified(part: Norm) -> None:
    """The output has the shape of the input, which is not written to."""
    x = example_states()
    before = x.detach().clone()
    assert example(part)(x).shape == x.shape
    assert torch.equal(x.detach(), before), "the input was changed"


def check_gradient(part: Norm) -> None:
    """The gradient is that of finite differences."""
    torch.autograd.gradcheck(example(part), (example_states(),))
