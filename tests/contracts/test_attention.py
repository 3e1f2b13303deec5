"""Contract of attention: whatever parts lie in the folder."""

from __future__ import annotations

import pytest
import torch

from encodery.base.parts import find, names
from encodery.base.settings import decode, encode
from encodery.model.attention import Attention
from encodery.model.init.normal import Normal
from encodery.model.positions import Positions
from encodery.model.shape import Batch, Shape

SHAPE = Shape(
    vocab=9, width=12, depth=2, heads=3, head_size=4, inner=8, max_length=40, segments=0, embedding=12, layer=1
)
LENGTHS = (20, 19, 18, 7, 1)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("name", names(Attention))
def test_what_every_attention_promises(name: str, window: int | None) -> None:
    part = find(Attention, name)()
    assert decode(Attention, encode(part)) == part
    module = part.build(SHAPE.at(1, window))
    Normal(std=0.5).apply(module, SHAPE, torch.Generator().manual_seed(0))
    module = module.double()
    positions = find(Positions, "none")().build(SHAPE)
    x = torch.randn(sum(LENGTHS), 12, dtype=torch.float64, requires_grad=True)
    given = x.detach().clone()
    layout = Batch.from_sequences([[0] * n for n in LENGTHS]).layout

    mixed = module(x, layout, positions)
    assert mixed.shape == x.shape
    assert torch.equal(x.detach(), given), "what is given is not written to"
    alone = [
        module(one, Batch.from_sequences([[0] * len(one)]).layout, positions) for one in torch.split(x, list(LENGTHS))
    ]
    torch.testing.assert_close(mixed, torch.cat(alone), rtol=1e-9, atol=1e-10)

    (reach,) = torch.autograd.grad(mixed[25].sum(), x, retain_graph=True)
    own = torch.zeros(len(x), dtype=torch.bool)
    own[20:39] = True
    assert not reach[~own].any(), "no gradient crosses documents"
    if window is not None:
        near = torch.zeros(len(x), dtype=torch.bool)
        near[25 - window : 25 + window + 1] = True
        assert not reach[~near].any(), "no gradient from beyond the window"
    above = torch.randn_like(mixed)
    (together,) = torch.autograd.grad(mixed, x, above)
    (apart,) = torch.autograd.grad(torch.cat(alone), x, above)
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-10)
