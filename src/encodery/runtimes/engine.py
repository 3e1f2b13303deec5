"""The engine that a runtime builds: packed batches to hidden states, or to one vector per sequence.

Shapes: T tokens of a packed batch, B sequences, H width.
"""

from __future__ import annotations

import abc
from typing import Literal

import numpy as np

from encodery.runtimes.batch import CheckedBatch, Limits, check_batch

PoolingMode = Literal["mean", "cls"]


class InferenceEngine(abc.ABC):
    """A model, ready to run. It may be called from several threads; a result does not depend on the other sequences of
    the batch, except by rounding."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    @abc.abstractmethod
    def hidden_states(self, batch: CheckedBatch) -> np.ndarray:
        """Return hidden states (T, H) float32."""

    def mean_pooled(self, batch: CheckedBatch) -> np.ndarray:
        """Return the mean over each sequence (B, H) float32."""
        return self.pool_hidden(self.hidden_states(batch), batch.cu_seqlens, "mean")

    def first_token(self, batch: CheckedBatch) -> np.ndarray:
        """Return the state of the first token of each sequence (B, H) float32."""
        return self.pool_hidden(self.hidden_states(batch), batch.cu_seqlens, "cls")

    def pool_hidden(self, hidden: np.ndarray, cu_seqlens: np.ndarray, pooling: PoolingMode) -> np.ndarray:
        """Return what `pooled` gives, to the bit, from hidden states (T, H) that were computed before."""
        if pooling == "cls":
            first: np.ndarray = hidden[cu_seqlens[:-1]]
            return first
        sums = np.add.reduceat(hidden, cu_seqlens[:-1], axis=0)
        means: np.ndarray = sums / np.diff(cu_seqlens)[:, None].astype(np.float32)
        return means

    def run(self, ids: np.ndarray, cu_seqlens: np.ndarray, segment: np.ndarray | None = None) -> np.ndarray:
        """Check a batch and return its hidden states.

        Args:
            ids: (T,) token ids.
            cu_seqlens: (B+1,) from 0 to T.
            segment: (T,) token type ids, or None.

        Returns: (T, H) float32. Raises `InputError` for ids or segments that the model does not have, an empty
        sequence, or one that is too long.
        """
        return self.hidden_states(check_batch(ids, cu_seqlens, segment, self.limits))

    def pooled(
        self, ids: np.ndarray, cu_seqlens: np.ndarray, pooling: PoolingMode = "mean", segment: np.ndarray | None = None
    ) -> np.ndarray:
        """Check a batch and return one vector per sequence (B, H): the mean of its states, or the first. See `run`."""
        batch = check_batch(ids, cu_seqlens, segment, self.limits)
        return self.mean_pooled(batch) if pooling == "mean" else self.first_token(batch)
