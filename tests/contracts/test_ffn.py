"""Contract of feed-forward layers: whatever parts lie in the folder."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from encodery.base.parts import find, names
from encodery.base.settings import decode, encode
from encodery.model.ffn import FFN
from encodery.model.init.normal import Normal
from encodery.model.shape import Shape
from encodery.model.weights import ActivationName

SHAPE = Shape(vocab=9, width=6, depth=2, heads=2, head_size=3, inner=10, max_length=4, segments=0, embedding=6)


@pytest.mark.parametrize("activation", get_args(ActivationName))
@pytest.mark.parametrize("name", names(FFN))
def test_what_every_ffn_promises(name: str, activation: str) -> None:
    part = find(FFN, name)(activation=activation)
    assert decode(FFN, encode(part)) == part
    module = part.build(SHAPE)
    Normal(std=1.0).apply(module, SHAPE, torch.Generator().manual_seed(0))
    module = module.double()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    y = module(x)
    assert y.shape == x.shape
    assert y.is_contiguous()
    torch.testing.assert_close(module(x[2:3]), y[2:3])
    (reach,) = torch.autograd.grad(y[1].sum(), x)
    assert not reach[[0, 2, 3, 4]].any(), "rows do not mix"
    if activation not in ("relu", "relu_squared"):
        torch.autograd.gradcheck(module, (x,))


@pytest.mark.parametrize("name", names(FFN))
def test_bias_switches(name: str) -> None:
    module = find(FFN, name)(bias=False, bias_out=False).build(SHAPE)
    assert not [key for key, _ in module.named_parameters() if key.endswith("bias")]


def test_first_half_of_a_glu_is_the_gate() -> None:
    module = decode(FFN, {"is": "glu", "activation": "gelu_tanh"}).build(SHAPE)
    Normal(std=1.0).apply(module, SHAPE, torch.Generator().manual_seed(0))
    x = torch.randn(3, 6)
    gate, value = (x @ module.up.weight.t()).split(10, dim=1)
    wanted = (F.gelu(gate, approximate="tanh") * value) @ module.down.weight.t()
    torch.testing.assert_close(module(x), wanted)
