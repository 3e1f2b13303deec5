"""The learned mix of layers: by its formula, equal to the plain mean of layers at the start, and learned."""

from __future__ import annotations

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.encoders.pooling.layers import Layers
from encodery.encoders.pooling.scalar_mix import ScalarMix
from encodery.model.shape import Batch, Output, Shape

SHAPE = Shape(
    vocab_size=64,
    width=8,
    depth=3,
    heads=2,
    head_size=4,
    intermediate_size=8,
    max_length=32,
    type_vocab_size=0,
    embedding_size=8,
)
BATCH = Batch.from_sequences([[1] * 4, [1], [1] * 6])


def output(seed: int = 0) -> Output:
    draw = torch.Generator().manual_seed(seed)
    layers = tuple(torch.randn(11, 8, generator=draw) for _ in range(4))
    return Output(layers[-1] * 2 + 1, layers)  # the final norm has changed the last


def test_all_layers_count_alike_before_training() -> None:
    given = output()
    mixed = ScalarMix().build(SHAPE)(given, BATCH)
    torch.testing.assert_close(mixed, Layers(layers=(0, 1, 2, -1)).build(SHAPE)(given, BATCH))
    few = ScalarMix(num_layers=2).build(SHAPE)(given, BATCH)
    torch.testing.assert_close(few, Layers(layers=(2, -1)).build(SHAPE)(given, BATCH))


def test_by_its_formula() -> None:
    given, module = output(), ScalarMix(lr_scale=2.0, norm=True).build(SHAPE)
    state = {"weights": torch.tensor([0.1, -0.4, 0.3, 0.0]), "scale": torch.tensor(1.5)}
    module.load_state_dict(state)
    assert given.layers is not None
    rows = []
    for part in torch.split(torch.arange(11), [4, 1, 6]):
        total = torch.zeros(8)
        for share, layer in zip((state["weights"] * 2).softmax(0), (*given.layers[:3], given.hidden), strict=True):
            tokens = layer[part]
            spread = (tokens.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            total = total + share * ((tokens - tokens.mean(1, keepdim=True)) / spread).mean(0)
        rows.append(1.5 * total)
    torch.testing.assert_close(module(given, BATCH), torch.stack(rows))


def test_the_layer_that_says_what_is_asked_for_gets_the_greatest_share() -> None:
    module = ScalarMix().build(SHAPE)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for step in range(80):
        given = output(step)
        wanted = Layers(layers=(2,)).build(SHAPE)(given, BATCH)
        optimizer.zero_grad()
        ((module(given, BATCH) - wanted) ** 2).mean().backward()
        optimizer.step()
    weights = module.get_parameter("weights").detach()
    assert int(weights.argmax()) == 2
    assert float((weights * 100.0).softmax(0)[2]) > 0.9


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"num_layers = 9: the model has 4 layers"):
        ScalarMix(num_layers=9).build(SHAPE)
    with pytest.raises(SettingsError, match="at least 1"):
        ScalarMix(num_layers=0)
