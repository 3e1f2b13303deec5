"""Contract of attention: whatever parts lie in the folder."""

from __future__ import annotations

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.attention import Attention
from encodery.model.init.normal import NormalInit
from encodery.model.positions import OffsetPattern, Positions
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
    layer=1,
)
LENGTHS = (20, 19, 18, 7, 1)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("name", part_names(Attention))
def test_what_every_attention_promises(name: str, window: int | None) -> None:
    part = find_part(Attention, name)()
    assert decode(Attention, encode(part)) == part
    module = part.build(SHAPE.for_layer(1, window))
    NormalInit(std=0.5).apply(module, SHAPE, torch.Generator().manual_seed(0))
    module = module.double()
    positions = find_part(Positions, "none")().build(SHAPE)
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


@pytest.mark.parametrize("name", part_names(Attention))
def test_weights_of_single_heads_are_views_of_what_is_learned(name: str) -> None:
    module = find_part(Attention, name)().build(SHAPE)
    NormalInit(std=0.5).apply(module, SHAPE, torch.Generator().manual_seed(0))
    positions = find_part(Positions, "none")().build(SHAPE)
    layout, x = Batch.from_sequences([[0] * 7]).layout, torch.randn(7, 12)
    heads = module.head_weights()
    if not heads:
        return
    assert len(heads) == SHAPE.heads
    whole = module(x, layout, positions)
    alone = []
    for kept in range(len(heads)):
        single = find_part(Attention, name)().build(SHAPE)
        single.load_state_dict(module.state_dict())
        for place, head in enumerate(single.head_weights()):
            assert head.query.shape == head.key.shape == head.value.shape == (4, 12)
            assert head.out.shape == (12, 4)
            if place != kept:
                head.out.zero_()
        alone.append(single(x, layout, positions))
        scores = (x @ heads[kept].query.T) @ (x @ heads[kept].key.T).T / 2
        told = scores.softmax(1) @ x @ heads[kept].value.T @ heads[kept].out.T
        torch.testing.assert_close(alone[-1], told, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sum(alone), whole, rtol=1e-4, atol=1e-5)


def test_an_aim_is_taken_whole_or_not_at_all() -> None:
    weights, biases = torch.randn(2, 4, 12), torch.randn(2, 4)
    with_biases, without = (
        find_part(Attention, "full")(bias=bias).build(SHAPE).head_weights()[1] for bias in (True, False)
    )
    assert with_biases.load_offset_pattern(OffsetPattern(weights, biases))
    assert torch.equal(with_biases.query, weights[0])
    assert torch.equal(with_biases.key, weights[1])
    assert torch.equal(torch.stack([with_biases.query_bias, with_biases.key_bias]), biases)
    before = without.query.clone()
    assert not without.load_offset_pattern(OffsetPattern(weights, biases))
    assert torch.equal(without.query, before)
    assert without.load_offset_pattern(OffsetPattern(weights))
    assert torch.equal(without.key, weights[1])
