"""The mean over the tokens of a sequence, with weight i for token i. arXiv:2202.08904 (SGPT)

Made for decoders, whose later tokens have seen more of the text; in a bidirectional model it mostly favours the end of
a text. Differs from `mean` by the weights; special tokens are included. Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling._sums import weighted_mean
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class Weighted(Pooling):
    """Has no settings.

    Use it when the model was trained with causal attention: `encoder.pooling.is=weighted`
    """

    def build(self, shape: Shape) -> PoolingModule:
        return _WeightedModule()


class _WeightedModule(PoolingModule):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        return weighted_mean(output.hidden, batch.layout.positions + 1, batch)
