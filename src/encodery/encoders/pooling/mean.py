"""Mean over the tokens of a sequence, special tokens included unless left out. arXiv:1908.10084

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
    """`specials` = false leaves the first and last token out where a sequence has others."""

    include_special_tokens: bool = True

    def build(self, shape: Shape) -> PoolingModule:
        return _MeanModule(self.include_special_tokens)


class _MeanModule(PoolingModule):
    def __init__(self, specials: bool) -> None:
        super().__init__()
        self.specials = specials

    def forward(self, output: Output, batch: Batch) -> Tensor:
        hidden = output.hidden.float()
        layout = batch.layout
        lengths = batch.cu_seqlens.diff().to(hidden.dtype)[:, None]
        summed = hidden.new_zeros(len(batch), hidden.shape[1]).index_add_(0, layout.sequence_ids, hidden)
        if self.specials:
            return summed / lengths
        ends = batch.cu_seqlens.long()
        inner = summed - hidden[ends[:-1]] - hidden[ends[1:] - 1]
        return torch.where(lengths > 2, inner, summed) / torch.where(lengths > 2, lengths - 2, lengths)
