"""The module that a task puts on the encoder.

Shapes: E examples, S sequences, T tokens, C outputs per example, sequence or token.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

from torch import Tensor, nn

from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm

EncodedBatches = Callable[[], Iterable[tuple[Output, Batch]]]
"""Computes the model's outputs, in evaluation mode, for a sample of the training examples; called only if needed."""


class TaskModule(nn.Module, abc.ABC):
    """Contract of the weights of a task. `granularity`: what one row of the output of `forward` belongs to;
    `is_softmax`: whether the softmax of a row gives the probabilities of C classes."""

    granularity: ClassVar[Literal["example", "sequence", "token"]] = "example"
    is_softmax: ClassVar[bool] = False

    def fit(self, encoded: EncodedBatches) -> None:
        """Set what is computed from hidden states without gradients. Called once, before the first step."""

    @abc.abstractmethod
    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return (E, C), (S, C) or (T, C), as `granularity` says, in the order of the batch."""

    @abc.abstractmethod
    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        """Return the loss terms of the output of `forward`, with the targets in `batch.extra`."""

    @abc.abstractmethod
    def counts(self, batch: Batch) -> dict[str, Count]:
        """Return the count of every learned term that `loss` will return, before the model runs."""
