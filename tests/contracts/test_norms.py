"""Contract of norms, for all parts in the folder."""

from __future__ import annotations

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.norms import Norm


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", part_names(Norm))
def test_what_every_norm_does(name: str, bias: bool) -> None:
    part = find_part(Norm, name)(bias=bias)
    assert decode(Norm, encode(part)) == part
    module = part.build(16).double()
    assert torch.equal(module.weight, torch.ones(16, dtype=torch.float64))
    assert (dict(module.named_parameters()).get("bias") is not None) == bias
    x = torch.randn(4, 16, dtype=torch.float64, requires_grad=True) * 7
    y = module(x)
    torch.testing.assert_close(y.square().mean(1), torch.ones(4, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module(x * 3), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module(x[1:2]), y[1:2])
    leaf = x.detach().requires_grad_()
    torch.autograd.gradcheck(module, (leaf,))


def test_rms_equals_layer_on_centred_rows() -> None:
    x = torch.randn(4, 16)
    x = x - x.mean(1, keepdim=True)
    layer, rms = (decode(Norm, {"is": name, "eps": 1e-6}).build(16)(x) for name in ("layer", "rms"))
    torch.testing.assert_close(layer, rms)
