"""Contract of feed-forward layers, for all parts in the folder."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.ffn import FFN
from encodery.model.init.normal import NormalInit
from encodery.model.shape import Shape
from encodery.model.weights import ActivationName

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
)


@pytest.mark.parametrize("activation", get_args(ActivationName))
@pytest.mark.parametrize("name", part_names(FFN))
def test_what_every_ffn_does(name: str, activation: str) -> None:
    part = find_part(FFN, name)(activation=activation)
    assert decode(FFN, encode(part)) == part
    module = part.build(SHAPE)
    NormalInit(std=1.0).apply(module, SHAPE, torch.Generator().manual_seed(0))
    module = module.double()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    y = module(x)
    assert y.shape == x.shape
    assert y.is_contiguous()
    torch.testing.assert_close(module(x[2:3]), y[2:3])
    (grad,) = torch.autograd.grad(y[1].sum(), x)
    assert not grad[[0, 2, 3, 4]].any(), "tokens are independent"
    if activation not in ("relu", "relu_squared"):
        torch.autograd.gradcheck(module, (x,))


@pytest.mark.parametrize("name", part_names(FFN))
def test_bias_switches(name: str) -> None:
    module = find_part(FFN, name)(bias=False, bias_out=False).build(SHAPE)
    assert not [key for key, _ in module.named_parameters() if key.endswith("bias")]


def test_the_first_half_of_a_glu_is_the_gate() -> None:
    module = decode(FFN, {"is": "glu", "activation": "gelu_tanh"}).build(SHAPE)
    NormalInit(std=1.0).apply(module, SHAPE, torch.Generator().manual_seed(0))
    x = torch.randn(3, 6)
    gate, value = (x @ module.up.weight.t()).split(10, dim=1)
    expected = (F.gelu(gate, approximate="tanh") * value) @ module.down.weight.t()
    torch.testing.assert_close(module(x), expected)
