"""A learned score for each token, and the mean weighted by the scores' softmax. arXiv:2104.05704 (sequence pooling)

Equals `mean` before training: the scores begin at zero. Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling._sums import softmax, weighted_mean
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class AttentionPooling(Pooling):
    """Has no settings, but H weights."""

    def build(self, shape: Shape) -> PoolingModule:
        return _AttentionModule(shape.width)


class _AttentionModule(PoolingModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        shares = softmax(self.score(output.hidden.float())[:, 0], batch)
        return weighted_mean(output.hidden, shares, batch)
