"""Contract of positions: whatever parts lie in the folder."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.positions import Positions
from encodery.model.shape import Batch, Shape

SHAPE = Shape(
    vocab_size=9,
    width=12,
    depth=2,
    heads=3,
    head_size=4,
    intermediate_size=8,
    max_length=40,
    type_vocab_size=0,
    embedding_size=12,
    layer=0,
)


@pytest.mark.parametrize("name", part_names(Positions))
def test_what_every_position_promises(name: str) -> None:
    part = find_part(Positions, name)()
    assert decode(Positions, encode(part)) == part
    module = part.build(SHAPE).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    layout = Batch.from_sequences([[0] * 5, [0] * 9, [0] * 5]).layout

    x = torch.randn(5, 12, dtype=torch.float64)
    rows = torch.cat((x, torch.randn(9, 12, dtype=torch.float64), x))
    added = module.add(rows.clone(), layout)
    assert added.shape == rows.shape
    assert torch.equal(added[:5], added[-5:]), "a document's place in the batch does not matter"

    half = torch.randn(5, 36, dtype=torch.float64)
    qkv = torch.cat((half, torch.randn(9, 36, dtype=torch.float64), half))
    turned = module.rotate(qkv.clone(), layout, SHAPE)
    assert turned.shape == qkv.shape
    assert torch.equal(turned[:5], turned[-5:])
    assert torch.equal(turned[:, 24:], qkv[:, 24:]), "values are left alone"
    norms = [t.view(19, 3, 3, 4).norm(dim=-1) for t in (turned, qkv)]
    torch.testing.assert_close(*norms)

    bias = module.bias(layout, SHAPE)
    if bias is not None:
        assert bias.shape[0] == 3
        assert bias.shape[1] % 2 == 1
        assert bias.shape[1] >= 2 * 9 - 1


@pytest.mark.parametrize("name", part_names(Positions))
def test_order_matters_unless_there_are_no_positions(name: str) -> None:
    from encodery.model.network import build_model
    from encodery.model.settings import ModelSettings

    settings = decode(ModelSettings, {"width": 12, "heads": 3, "vocab_size": 9, "positions": name, "init": {
        "is": "normal", "std": 0.3}})  # fmt: skip
    model = build_model(settings)
    first = model(Batch.from_sequences([[1, 2, 3, 4]])).hidden
    second = model(Batch.from_sequences([[2, 1, 3, 4]])).hidden[[1, 0, 2, 3]]
    assert torch.allclose(first, second, atol=1e-5) == (name == "none")


@pytest.mark.parametrize("offset", [1, -1, 2, -2])
@pytest.mark.parametrize("name", part_names(Positions))
def test_a_head_that_is_aimed_looks_there(name: str, offset: int) -> None:
    shape = dataclasses.replace(SHAPE, width=64, embedding_size=64, heads=1, head_size=64)
    module = find_part(Positions, name)().build(shape)
    generator = torch.Generator().manual_seed(1)
    module.init_offset_features(0.1, generator)
    aim = module.offset_pattern(offset, 12.0, shape)
    if aim is None:
        return  # Not every kind can tell a head how far to look.
    layout = Batch.from_sequences([[0] * 38]).layout
    words = 0.1 * torch.randn(38, 64, generator=generator)
    x = torch.nn.functional.layer_norm(module.add(words, layout), (64,))
    both = torch.zeros(2, 38, 64) if aim.weights is None else torch.einsum("th,wdh->wtd", x, aim.weights)
    both = both if aim.biases is None else both + aim.biases[:, None]
    qkv = torch.cat([*both, torch.zeros(38, 64)], 1)
    query, key, _ = module.rotate(qkv, layout, shape).view(38, 3, 64).unbind(1)
    looked = (query @ key.T / 8).softmax(1).diagonal(offset)
    assert looked.median() > 0.5
    assert looked.min() > 2 / 38


@pytest.mark.parametrize("name", ["rotary", "learned"])
def test_these_can_aim_a_head(name: str) -> None:
    module = find_part(Positions, name)().build(SHAPE)
    module.init_offset_features(0.1, torch.Generator().manual_seed(1))
    assert module.offset_pattern(1, 12.0, SHAPE) is not None


def test_rotary_scores_depend_on_distance_only() -> None:
    module = decode(Positions, {"is": "rotary", "theta": 100.0, "local_theta": 10.0}).build(SHAPE)
    layout = Batch.from_sequences([[0] * 12]).layout
    qkv = torch.randn(1, 36).double().repeat(12, 1)
    for shape in (SHAPE, SHAPE.for_layer(0, 3)):
        query, key, _ = module.rotate(qkv.clone(), layout, shape).view(12, 3, 3, 4).unbind(1)
        scores = torch.einsum("ind,jnd->nij", query, key)
        for distance in range(-11, 12):
            diagonal = scores.diagonal(distance, 1, 2)
            torch.testing.assert_close(diagonal, diagonal[:, :1].expand_as(diagonal), rtol=1e-5, atol=1e-5)
    local, whole = (module.rotate(qkv.clone(), layout, shape) for shape in (SHAPE.for_layer(0, 3), SHAPE))
    assert not torch.allclose(local, whole)


def test_rotary_turns_gradients_back() -> None:
    module = decode(Positions, "rotary").build(SHAPE)
    layout = Batch.from_sequences([[0] * 3, [0] * 2]).layout
    leaf = torch.randn(5, 36, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: module.rotate(x.clone(), layout, SHAPE), (leaf,))


def test_alibi_slopes() -> None:
    from dataclasses import replace

    layout = Batch.from_sequences([[0] * 3]).layout
    eight = decode(Positions, "alibi").build(replace(SHAPE, heads=8)).bias(layout, SHAPE)
    torch.testing.assert_close(eight[:, 3], -torch.tensor([2.0**-i for i in range(1, 9)]))
    assert torch.equal(eight, eight.flip(1))
    twelve = decode(Positions, "alibi").build(replace(SHAPE, heads=12)).bias(layout, SHAPE)
    torch.testing.assert_close(twelve[8:, 3], -torch.tensor([2.0 ** -(i + 0.5) for i in range(4)]))
