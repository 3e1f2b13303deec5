"""The hidden state of the first token, [CLS]. arXiv:1810.04805 (BERT)

Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class CLS(Pooling):
    """Has no settings.

    Use it when the model was trained with it, as SimCSE and BGE models were: `encoder.pooling.is=cls`
    """

    def build(self, shape: Shape) -> PoolingModule:
        return _CLSModule()


class _CLSModule(PoolingModule):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        return output.hidden[batch.cu_seqlens[:-1].long()].float()
