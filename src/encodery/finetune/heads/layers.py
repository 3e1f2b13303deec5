"""Layers and functions of heads: a linear map with its own learning rate, pooling, a softmax within groups.

Shapes: T tokens, S sequences, H width, N scores.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.model.shape import Batch

HeadPooling = Literal["mean", "cls", "max"]
INIT_STD = 0.02


class ScaledLRLinear(nn.Linear):
    """A linear map whose learning rate is `lr_scale` times that of the optimizer.

    Weights are stored divided by `lr_scale` and multiplied by it in `forward`. Under Adam and similar optimizers, whose
    step sizes do not depend on the scale of the gradients, this equals a separate learning rate. Use it for a map
    that is initialised at random on a pre-trained model, since it has farther to go. The effective weights are drawn
    with a standard deviation of 0.02.
    """

    def __init__(self, width: int, outputs: int, lr_scale: float) -> None:
        super().__init__(width, outputs)
        self.lr_scale = lr_scale
        nn.init.normal_(self.weight, std=INIT_STD / lr_scale)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.lr_scale, self.bias * self.lr_scale)


def pool(hidden: Tensor, batch: Batch, kind: HeadPooling) -> Tensor:
    """Return one vector per sequence (S, H), in fp32, of hidden states (T, H): the mean, the first or the maximum."""
    hidden = hidden.float()
    if kind == "cls":
        return hidden[batch.cu_seqlens[:-1].long()]
    sequence = batch.layout.sequence_ids
    if kind == "max":
        lowest = hidden.new_full((len(batch), hidden.shape[1]), -torch.inf)
        return lowest.scatter_reduce(0, sequence[:, None].expand_as(hidden), hidden, "amax")
    total = hidden.new_zeros(len(batch), hidden.shape[1]).index_add(0, sequence, hidden)
    return total / batch.cu_seqlens.diff().to(hidden.dtype)[:, None]


def grouped_log_softmax(scores: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Return the log-softmax of scores (N,) within each group; `group` (N,) is the group of each score."""
    highest = scores.new_full((num_groups,), -torch.inf).scatter_reduce(0, group, scores.detach(), "amax")
    shifted = scores - highest[group]
    total = scores.new_zeros(num_groups).index_add(0, group, shifted.exp())
    return shifted - total.log()[group]
