"""Checks of attention masks."""

from __future__ import annotations

import dataclasses

import torch

from encodery.base.settings import decode, encode
from encodery.model.masks import Mask
from encodery.model.network import build_model
from encodery.model.reach import Reach
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

DEPTHS = (1, 2, 12)
LENGTH = 150
SETTINGS = ModelSettings(width=8, depth=1, heads=2, intermediate_size=8, vocab_size=9, max_length=LENGTH)


def check_settings_round_trip(part: Mask) -> None:
    """The part is what its settings decode to."""
    assert decode(Mask, encode(part)) == part


def check_reach_of_every_layer(part: Mask) -> None:
    """Every layer of a model of any depth has a `Reach`, which is the same in every call."""
    for depth in DEPTHS:
        for layer in range(depth):
            reach = part.reach(layer, depth)
            assert isinstance(reach, Reach), f"layer {layer} of {depth}: {reach!r} is no Reach"
            assert part.reach(layer, depth) == reach, f"layer {layer} of {depth}: a second call gives another reach"


def check_gradients_stay_within_reach(part: Mask) -> None:
    """In a model of one layer a token depends on the tokens within its reach, and on no others."""
    model = build_model(dataclasses.replace(SETTINGS, mask=part)).double()
    table, reach = model.encoder.get_parameter("positions.table.weight"), part.reach(0, 1)
    batch = Batch.from_sequences([[5] * LENGTH])
    for query in (0, 70, LENGTH - 1):
        (grad,) = torch.autograd.grad(model.encoder(batch).hidden[query, 0], table)
        expected = reach.allows(torch.tensor(query), torch.arange(LENGTH))
        assert torch.equal(grad.any(1), expected), f"token {query} depends on other tokens than those within {reach}"
