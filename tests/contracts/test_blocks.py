"""Contract of blocks, for all parts in the folder."""

from __future__ import annotations

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.attention.full import FullAttention
from encodery.model.blocks import Block
from encodery.model.ffn.mlp import MLP
from encodery.model.init.normal import NormalInit
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.none import NoPositions
from encodery.model.shape import Batch, Shape

SHAPE = Shape(
    vocab_size=9,
    width=12,
    depth=2,
    heads=3,
    head_size=4,
    intermediate_size=8,
    max_length=9,
    type_vocab_size=0,
    embedding_size=12,
)
LAYOUT = Batch.from_sequences([[0] * 4, [0] * 3]).layout
POSITIONS = NoPositions().build(SHAPE)


def build(name: str, std: float, dropout: float = 0.0) -> torch.nn.Module:
    module = find_part(Block, name)().build(
        SHAPE.for_layer(1, None), attention=FullAttention(), ffn=MLP(), norm=LayerNorm(), dropout=dropout
    )
    NormalInit(std=std).apply(module, SHAPE, torch.Generator().manual_seed(0))
    return module.double()


@pytest.mark.parametrize("name", part_names(Block))
def test_what_every_block_does(name: str) -> None:
    part = find_part(Block, name)()
    assert decode(Block, encode(part)) == part
    module = build(name, 0.5)
    assert {"attention", "attention_norm", "ffn", "ffn_norm"} <= dict(module.named_children()).keys()
    x = torch.randn(7, 12, dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    y = module(x, LAYOUT, POSITIONS)
    assert y.shape == x.shape
    assert torch.equal(x.detach(), before), "the input is not modified"
    torch.autograd.gradcheck(lambda z: module(z, LAYOUT, POSITIONS), (x,), fast_mode=True)
    final = part.final(SHAPE, LayerNorm()).double()
    assert final(y).shape == y.shape


def test_pre_and_post_place_the_residual() -> None:
    x = torch.randn(7, 12, dtype=torch.float64)
    norm = LayerNorm().build(12).double()
    torch.testing.assert_close(build("pre", 0.0)(x, LAYOUT, POSITIONS), x)
    torch.testing.assert_close(build("post", 0.0)(x, LAYOUT, POSITIONS), norm(norm(x)))


@pytest.mark.parametrize("name", part_names(Block))
def test_dropout_acts_in_training_only(name: str) -> None:
    module, still = build(name, 0.5, dropout=0.5), build(name, 0.5)
    x = torch.randn(7, 12, dtype=torch.float64)
    assert not torch.equal(module(x, LAYOUT, POSITIONS), still(x, LAYOUT, POSITIONS))
    module.eval()
    assert torch.equal(module(x, LAYOUT, POSITIONS), still(x, LAYOUT, POSITIONS))
