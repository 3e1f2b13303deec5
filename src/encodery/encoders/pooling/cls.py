"""The first token's hidden state, as BERT's pooled sequences begin. arXiv:1810.04805

Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class CLS(Pooling):
    """Has no settings."""

    def build(self, shape: Shape) -> PoolingModule:
        return _CLSModule()


class _CLSModule(PoolingModule):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        return output.hidden[batch.cu_seqlens[:-1].long()].float()
