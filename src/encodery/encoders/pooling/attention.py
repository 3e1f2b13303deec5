"""The mean of the tokens weighted by the softmax of a learned score. arXiv:2104.05704 (sequence pooling)

Equals `mean` before training, since the scores are initialised to zero. Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling._sums import softmax, weighted_mean
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class AttentionPooling(Pooling):
    """Has no settings; H weights are trained.

    Use it when labelled data is there to learn which tokens matter: `encoder.pooling.is=attention`
    """

    def build(self, shape: Shape) -> PoolingModule:
        return _AttentionModule(shape.width)


class _AttentionModule(PoolingModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        weights = softmax(self.score(output.hidden.float())[:, 0], batch)
        return weighted_mean(output.hidden, weights, batch)
