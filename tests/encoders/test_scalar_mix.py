"""The learned mix of layers: its formula, its equality with the mean of layers at the start, and its training."""

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


def test_all_layers_have_equal_weights_before_training() -> None:
    inputs = output()
    mixed = ScalarMix().build(SHAPE)(inputs, BATCH)
    torch.testing.assert_close(mixed, Layers(layers=(0, 1, 2, -1)).build(SHAPE)(inputs, BATCH))
    few = ScalarMix(num_layers=2).build(SHAPE)(inputs, BATCH)
    torch.testing.assert_close(few, Layers(layers=(2, -1)).build(SHAPE)(inputs, BATCH))


def test_formula() -> None:
    inputs, module = output(), ScalarMix(lr_scale=2.0, norm=True).build(SHAPE)
    state = {"weights": torch.tensor([0.1, -0.4, 0.3, 0.0]), "scale": torch.tensor(1.5)}
    module.load_state_dict(state)
    assert inputs.layers is not None
    rows = []
    for part in torch.split(torch.arange(11), [4, 1, 6]):
        total = torch.zeros(8)
        for share, layer in zip((state["weights"] * 2).softmax(0), (*inputs.layers[:3], inputs.hidden), strict=True):
            tokens = layer[part]
            spread = (tokens.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            total = total + share * ((tokens - tokens.mean(1, keepdim=True)) / spread).mean(0)
        rows.append(1.5 * total)
    torch.testing.assert_close(module(inputs, BATCH), torch.stack(rows))


def test_training_gives_the_layer_of_the_target_the_highest_weight() -> None:
    module = ScalarMix().build(SHAPE)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for step in range(80):
        inputs = output(step)
        expected_value = Layers(layers=(2,)).build(SHAPE)(inputs, BATCH)
        optimizer.zero_grad()
        ((module(inputs, BATCH) - expected_value) ** 2).mean().backward()
        optimizer.step()
    weights = module.get_parameter("weights").detach()
    assert int(weights.argmax()) == 2
    assert float((weights * 100.0).softmax(0)[2]) > 0.9


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"num_layers = 9: the model has 4 layers"):
        ScalarMix(num_layers=9).build(SHAPE)
    with pytest.raises(SettingsError, match="at least 1"):
        ScalarMix(num_layers=0)
