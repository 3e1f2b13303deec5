"""No positions: the encoder sees a bag of tokens. arXiv:2305.19466"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encodery.model.positions import PositionKind, Positions, PositionsModule
from encodery.model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class NoPositions(Positions):
    """Use it if the order of tokens does not matter, as in static embedding models. Has no settings.

    [model]
    positions = "none"
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"offset_patterns"})

    @property
    def kinds(self) -> frozenset[PositionKind]:
        return frozenset()

    def build(self, shape: Shape) -> PositionsModule:
        return _NoPositionsModule()


class _NoPositionsModule(PositionsModule):
    pass
