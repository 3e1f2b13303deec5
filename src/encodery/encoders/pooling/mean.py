"""The mean over the tokens of a sequence, with or without the special tokens. arXiv:1908.10084 (Sentence-BERT)

Summed in float32 whatever the model's precision. Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class Mean(Pooling):
    """`include_special_tokens` = false leaves the first and the last token out if a sequence has others.

    Use it when nothing speaks for another pooling; it is the default: `encoder.pooling.is=mean`
    """

    include_special_tokens: bool = True

    def build(self, shape: Shape) -> PoolingModule:
        return _MeanModule(self.include_special_tokens)


class _MeanModule(PoolingModule):
    def __init__(self, include_special_tokens: bool) -> None:
        super().__init__()
        self.include_special_tokens = include_special_tokens

    def forward(self, output: Output, batch: Batch) -> Tensor:
        hidden = output.hidden.float()
        lengths = batch.cu_seqlens.diff().to(hidden.dtype)[:, None]
        sums = hidden.new_zeros(len(batch), hidden.shape[1]).index_add_(0, batch.layout.sequence_ids, hidden)
        if self.include_special_tokens:
            return sums / lengths
        bounds = batch.cu_seqlens.long()
        inner = sums - hidden[bounds[:-1]] - hidden[bounds[1:] - 1]
        return torch.where(lengths > 2, inner, sums) / torch.where(lengths > 2, lengths - 2, lengths)
