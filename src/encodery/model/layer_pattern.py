"""The part of a layer in a pattern of parts that repeats over the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from encodery.base.errors import SettingsError
from encodery.base.parts import Part

P = TypeVar("P", bound=Part)
SHARED = "layers share their weights (layer_groups), so their parts cannot alternate."


def check_pattern(of: Sequence[Part]) -> None:
    """Raise `SettingsError` for an empty pattern."""
    if not of:
        raise SettingsError("of = []: a pattern needs at least one part; layer i gets part i modulo their number.")


def part_of_layer(of: Sequence[P], layer: int | None) -> P:
    """The part of layer `layer`, from 0. Raises `SettingsError` for a block that several layers share (None)."""
    if layer is None and len(set(of)) > 1:
        raise SettingsError(f"pattern: {SHARED}")
    return of[(layer or 0) % len(of)]
