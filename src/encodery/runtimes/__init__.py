"""Runtimes: from a model to an engine that maps packed batches to hidden states.

Shapes: T tokens of a packed batch, B sequences, H width.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from encodery.base.parts import Part
from encodery.runtimes._checked import CheckedBatch, Limits, check_batch

if TYPE_CHECKING:  # An engine may be opened without a model, and without PyTorch.
    from encodery.model.network import Model

PoolingMode = Literal["mean", "cls"]


class InferenceEngine(abc.ABC):
    """A model, ready to run. May be called from several threads; a result never depends on what else is in the batch,
    beyond rounding."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    @abc.abstractmethod
    def hidden_states(self, batch: CheckedBatch) -> np.ndarray:
        """Hidden states (T, H) float32 of a batch that has been checked."""

    def mean_pooled(self, batch: CheckedBatch) -> np.ndarray:
        """Means over each sequence (B, H) float32 of a batch that has been checked."""
        return self.pool_hidden(self.hidden_states(batch), batch.cu_seqlens, "mean")

    def first_token(self, batch: CheckedBatch) -> np.ndarray:
        """The first token of each sequence (B, H) float32 of a batch that has been checked."""
        return self.pool_hidden(self.hidden_states(batch), batch.cu_seqlens, "cls")

    def pool_hidden(self, hidden: np.ndarray, cu_seqlens: np.ndarray, pooling: PoolingMode) -> np.ndarray:
        """What `pooled` gives, to the bit, of hidden states (T, H) that are there already."""
        if pooling == "cls":
            firsts: np.ndarray = hidden[cu_seqlens[:-1]]
            return firsts
        summed = np.add.reduceat(hidden, cu_seqlens[:-1], axis=0)
        means: np.ndarray = summed / np.diff(cu_seqlens)[:, None].astype(np.float32)
        return means

    def run(self, ids: np.ndarray, cu_seqlens: np.ndarray, segment: np.ndarray | None = None) -> np.ndarray:
        """ids (T,), cu_seqlens (B+1,) from 0 to T, segment (T,) or None → hidden states (T, H) float32.

        Raises `InputError` for ids or segments the model has not, an empty sequence, or one that is too long.
        """
        return self.hidden_states(check_batch(ids, cu_seqlens, segment, self.limits))

    def pooled(
        self, ids: np.ndarray, cu_seqlens: np.ndarray, pooling: PoolingMode = "mean", segment: np.ndarray | None = None
    ) -> np.ndarray:
        """The same, to one vector a sequence (B, H): the mean over all its tokens, or its first token."""
        batch = check_batch(ids, cu_seqlens, segment, self.limits)
        return self.mean_pooled(batch) if pooling == "mean" else self.first_token(batch)


class Runtime(Part):
    """A way of running a model without training it. `exact`: its states are the model's, to rounding."""

    exact: ClassVar[bool] = False

    @abc.abstractmethod
    def build(self, model: Model) -> InferenceEngine:
        """The engine; later changes of the model may or may not reach it.

        Raises `SettingsError` for a model this runtime cannot run, and for a machine it cannot run on.
        """
