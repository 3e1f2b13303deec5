"""Large batches in little memory: the gradients of one pass, with the activations of one chunk at a time.

GradCache, arXiv:2101.06983. The embeddings of all chunks are computed without their activations, the loss of the whole
batch gives the gradient of each embedding, and every chunk is then run again to pass it on to the weights. That is
activation checkpointing with chunks of the batch as the unit, so torch's own is used, which also repeats the random
numbers of dropout. It costs a second forward pass; a single chunk costs nothing. Shapes: T tokens, B sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from encodery.model.shape import Batch

EncodeBatch = Callable[[Batch], Tensor]
"""A packed batch to one result per sequence or per token; may draw random numbers."""


def split_batch(batch: Batch, tokens: int) -> Iterator[Batch]:
    """Yield the sequences of a batch in order, as batches of at most `tokens` tokens; a longer sequence is alone.

    `extra` is not carried over.
    """
    ends = batch.cu_seqlens.tolist()
    first = 0
    for last in range(1, len(ends)):
        if last == len(ends) - 1 or ends[last + 1] - ends[first] > tokens:
            start, stop = ends[first], ends[last]
            cu_seqlens = batch.cu_seqlens[first : last + 1] - start
            segment = None if batch.segment is None else batch.segment[start:stop]
            prefix = None if batch.prefix is None else batch.prefix[first:last]
            yield Batch(
                batch.ids[start:stop], cu_seqlens, int(cu_seqlens.diff().max()), segment, {}, batch.reach, prefix
            )
            first = last


def run_in_chunks(encode: EncodeBatch, batch: Batch, tokens: int) -> Tensor:
    """Run `encode` on chunks of at most `tokens` tokens and concatenate the results; with gradients, each chunk is run
    twice."""
    if batch.tokens <= tokens or len(batch) == 1:
        return encode(batch)
    chunks = split_batch(batch, tokens)
    if not torch.is_grad_enabled():
        return torch.cat([encode(chunk) for chunk in chunks])
    return torch.cat([checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks])
