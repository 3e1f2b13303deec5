"""Mean over the tokens of a sequence, later ones weighing more: token i counts i times. arXiv:2202.08904 (SGPT)

Made for models whose later tokens have seen more; in a bidirectional one it mostly favours the end of a text. Differs
from `mean` by the weights; special tokens are included. Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling._sums import weighted_mean
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class Weighted(Pooling):
    """Has no settings."""

    def build(self, shape: Shape) -> PoolingModule:
        return _WeightedModule()


class _WeightedModule(PoolingModule):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        return weighted_mean(output.hidden, batch.layout.positions + 1, batch)
