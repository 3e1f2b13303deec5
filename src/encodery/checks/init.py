"""Checks of initialisations, each of a model of eight layers of width 64."""

from __future__ import annotations

import torch

from encodery.base.settings import decode, encode
from encodery.model.init import Init
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings


def example(part: Init, seed: int = 5) -> Model:
    """Return a model that the part initialised."""
    settings = ModelSettings(width=64, depth=8, heads=4, vocab_size=500, max_length=32, init=part)
    return build_model(settings, seed=seed)


def check_settings_round_trip(part: Init) -> None:
    """The part is what its settings decode to."""
    assert decode(Init, encode(part)) == part


def check_equal_seeds_give_equal_weights(part: Init) -> None:
    """The weights are determined by the seed, and another seed gives other token embeddings."""
    first, second, other = example(part), example(part), example(part, seed=6)
    for (key, one), same in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, same), f"equal seeds gave different weights of {key}"
    assert not torch.equal(first.encoder.token_embeddings, other.encoder.token_embeddings), "the seed is not used"


def check_every_weight_is_written(part: Init) -> None:
    """All weights are finite; biases are zero and the weights of norms one."""
    for key, parameter in example(part).named_parameters():
        assert torch.isfinite(parameter).all(), f"{key} is not finite"
        if key.endswith("bias"):
            assert not parameter.any(), f"{key} does not start at zero"
        elif "norm" in key:
            assert bool((parameter == 1).all()), f"{key} does not start at one"


def check_spread_of_token_embeddings(part: Init) -> None:
    """The standard deviation of the token embeddings is between 0.001 and 0.5."""
    std = example(part).encoder.token_embeddings.std().item()
    assert 0.001 < std < 0.5, f"the standard deviation is {std}"
