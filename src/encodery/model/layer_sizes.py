"""Sizes of single layers that differ from the model's."""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.errors import SettingsError
from encodery.base.settings import check_at_least


@dataclass(frozen=True, kw_only=True)
class LayerSizes:
    """Sizes of one layer, an entry of `model.layers`.

    `heads` and `intermediate_size` are the model's unless they are set; the size of a head is always the model's. With
    0 heads the layer has no attention, with an intermediate size of 0 no feed-forward: the sublayer, its norm and its
    residual sum are left out. Raises `SettingsError` for a negative size and for a layer that would have neither.

        [model]
        depth = 2
        layers = [{heads = 2}, {heads = 4, intermediate_size = 512}]
    """

    heads: int | None = None
    intermediate_size: int | None = None

    def __post_init__(self) -> None:
        check_at_least(self, 0, "heads", "intermediate_size")
        if self.heads == 0 and self.intermediate_size == 0:
            raise SettingsError("heads = 0 and intermediate_size = 0: a layer needs an attention or a feed-forward.")
