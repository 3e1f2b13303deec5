"""Products of 8-bit floats: scales, formats of the two directions, layers of any number of tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from encodery.model.ops.float8_linear import BACKWARD, FORWARD, Float8Matrix, naive, scaled, to_float8
from encodery.model.ops.float8_linear.linear import linear, supports
from encodery.model.weights import Linear


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(results: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to that of the expected values."""
    results, expected = results.detach().double(), expected.detach().double()
    return float((results - expected).norm() / expected.norm())


@pytest.mark.parametrize(("kind", "step"), [(FORWARD, 2**-4), (BACKWARD, 2**-3)])
def test_rounding_is_that_of_the_format_at_any_scale(kind: torch.dtype, step: float) -> None:
    for size in (1e-20, 1.0, 1e20):
        x = draw(64, 64) * size
        narrow = to_float8(x, kind)
        assert narrow.values.dtype == kind
        back = narrow.values.float() * narrow.scale
        large = x.abs() > x.abs().max() * 2**-6
        assert ((back - x).abs() / x.abs())[large].max() <= step * 1.001
        assert back.abs().max() == pytest.approx(float(x.abs().max()), rel=1e-6), "the range is used to its end"


def test_zeros_stay_zero_and_values_that_are_not_finite_stay_so() -> None:
    assert not to_float8(torch.zeros(3, 3), FORWARD).values.float().any()
    for bad in (torch.inf, -torch.inf, torch.nan):
        x = draw(16, 16)
        x[3, 4] = bad
        for kind in (FORWARD, BACKWARD):
            narrow = to_float8(x, kind)
            assert not torch.isfinite(naive.product(narrow, to_float8(draw(16, 16), FORWARD), torch.float32)).all()


def test_products_of_representable_numbers_are_exact() -> None:
    signs = torch.randint(0, 2, (48, 32), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    powers = 2.0 ** torch.randint(0, 4, (48, 32), generator=torch.Generator().manual_seed(2))
    x = (signs * powers).requires_grad_()
    weight = (signs[:16] * powers[16:32] / 1024).requires_grad_()
    bias = draw(16).requires_grad_()
    grad = (signs * powers)[:, :16].contiguous()
    results = []
    for way in (linear, torch.nn.functional.linear):
        x.grad = weight.grad = bias.grad = None
        y = way(x, weight, bias)
        y.backward(grad)
        results.append([y.detach(), x.grad, weight.grad, bias.grad])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 15, 16, 50])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_is_near_the_plain_one(tokens: int, precision: torch.dtype) -> None:
    x, weight, bias = draw(tokens, 64, seed=1), draw(32, 64, seed=2), draw(32, seed=3)
    grad = draw(tokens, 32, seed=4)
    plain, made = [], []
    for way, results in ((torch.nn.functional.linear, plain), (linear, made)):
        held = [part.clone().requires_grad_() for part in (x, weight, bias)]
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            y = way(*held)
        assert y.dtype == precision
        y.backward(grad.to(y.dtype))
        results += [y.detach(), *(part.grad for part in held)]
    for one, other, max_error in zip(made, plain, (0.05, 0.07, 0.07, 0.01), strict=True):
        assert one.dtype == other.dtype
        assert 0 < relative_error(one, other) < max_error or one.shape == (32,)


def test_small_gradients_survive_which_the_forward_format_would_round_to_zero() -> None:
    grad = torch.full((16, 16), 1e-8)
    grad[0, 0] = 1.0
    assert not to_float8(grad, FORWARD).values.float()[1:].any()
    x, weight = draw(16, 16).requires_grad_(), draw(16, 16, seed=1).requires_grad_()
    linear(x, weight, None).backward(grad)
    assert x.grad is not None
    assert x.grad[1:].abs().min() > 0


def test_shapes_and_supported_sizes() -> None:
    assert linear(draw(2, 3, 32), draw(16, 32), None).shape == (2, 3, 16)
    assert supports(draw(16, 32))
    assert not supports(draw(16, 24))
    layer = Linear(32, 16, bias=True)
    nn.init.normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    x = draw(4, 32)
    wide = layer(x)
    layer.float8 = True
    assert 0 < relative_error(layer(x), wide) < 0.06


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_hardware_agrees_with_the_reference() -> None:
    left, right = to_float8(draw(48, 64), FORWARD), to_float8(draw(64, 32, seed=1), FORWARD)
    expected = naive.product(left, right, torch.bfloat16)
    there = [Float8Matrix(values.cuda(), scale.cuda()) for values, scale in (left, right)]
    torch.testing.assert_close(scaled.product(*there, torch.bfloat16).cpu(), expected, rtol=0.01, atol=0.01)
