"""Checks of attention masks."""

from __future__ import annotations

from encodery.base.settings import decode, encode
from encodery.model.masks import Mask
from encodery.model.reach import Reach

DEPTHS = (1, 2, 12)


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
