"""Huge batches in small memory: gradients as from one pass over the batch, activations of one piece at a time.

GradCache, arXiv:2101.06983: the vectors of all pieces are computed without their activations, the loss of the whole
batch gives the gradient of each vector, and every piece is then run again to carry it into the weights. That is
recomputation with pieces of the batch as the unit, so it stands on torch's own, which also plays dropout's random
numbers again. Costs a second forward pass; one piece costs nothing. Shapes: T tokens, B sequences, K width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from encodery.model.shape import Batch

EncodeBatch = Callable[[Batch], Tensor]


def split_batch(batch: Batch, tokens: int) -> Iterator[Batch]:
    """The batch's sequences in order, as batches of at most so many tokens; a longer sequence is a piece of its own.

    `extra` is not carried over.
    """
    ends = batch.cu_seqlens.tolist()
    first = 0
    for last in range(1, len(ends)):
        if last == len(ends) - 1 or ends[last + 1] - ends[first] > tokens:
            begin, end = ends[first], ends[last]
            cu_seqlens = batch.cu_seqlens[first : last + 1] - begin
            segment = None if batch.segment is None else batch.segment[begin:end]
            yield Batch(batch.ids[begin:end], cu_seqlens, int(cu_seqlens.diff().max()), segment)
            first = last


def run_in_chunks(run: EncodeBatch, batch: Batch, tokens: int) -> Tensor:
    """`run` over pieces of at most `tokens`, results (B, …) put together; with gradients, each piece runs twice.

    `run` must give one row a sequence and may draw random numbers.
    """
    if batch.tokens <= tokens or len(batch) == 1:
        return run(batch)
    parts = split_batch(batch, tokens)
    if not torch.is_grad_enabled():
        return torch.cat([run(part) for part in parts])
    return torch.cat([checkpoint(run, part, use_reentrant=False) for part in parts])
