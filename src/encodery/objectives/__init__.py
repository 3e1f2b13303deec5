"""Objectives: what a model is trained on. `_terms.py` says how the losses of micro-batches and ranks add up."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import nn

from encodery.base.parts import Part
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives._terms import Count, LossTerm, normalised_loss, step_metrics, sum_counts

__all__ = ["Count", "LossTerm", "Objective", "ObjectiveModule", "normalised_loss", "step_metrics", "sum_counts"]


class Objective(Part):
    """Contract: a part holds the settings. `has_expected_loss`: `train.expected_loss` has fitted curves for it."""

    has_expected_loss: ClassVar[bool] = False

    @abc.abstractmethod
    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        """Return the module for such a model; `init_weights` or a checkpoint fills its weights, if any."""

    def num_parameters(self, model: ModelSettings) -> int:
        """Return the number of weights that the objective has besides the model's."""
        return 0

    def max_predictions(self, tokens: int) -> int | None:
        """Return the most positions predicted in a batch of `tokens` tokens; None if shapes depend on its content.

        With a number, `prepare` keeps the batch's shapes and adds only `masked_positions` and `labels` of at most that
        length, which may be `IGNORE_INDEX`. Raises `SettingsError` if other settings allow static shapes.
        """
        return None


class ObjectiveModule(nn.Module, abc.ABC):
    """An objective at work; its own weights are dropped at export. `keeps_mlm_head`: False if the head is trained on
    other states than it sees later, and is dropped too. `supports_layerwise`: `encode` and `forward` are as here."""

    keeps_mlm_head: bool = True
    supports_layerwise: ClassVar[bool] = False

    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise the objective's own weights."""

    @abc.abstractmethod
    def prepare(self, batch: Batch, generator: torch.Generator, progress: float) -> Batch:
        """Return the batch that the model reads, `extra` holding what `loss` needs; `progress` in 0..1 of the run."""

    @abc.abstractmethod
    def counts(self, batch: Batch) -> dict[str, Count]:
        """Return the count of every learned term of this prepared batch, known before the model runs."""

    @abc.abstractmethod
    def loss(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        """Return the terms of a prepared batch, given the model's output for it."""

    def encode(self, model: Model, batch: Batch) -> Output:
        """Run the model on a batch with masked tokens; held-out text is read in the same way."""
        return model(batch)  # type: ignore[no-any-return]

    def forward(self, model: Model, batch: Batch) -> dict[str, LossTerm]:
        """Run the model on a prepared batch and return its terms."""
        return self.loss(model, self.encode(model, batch), batch)

    def flops(self, model: ModelSettings, length: float, progress: float) -> float:
        """Return the floating-point operations, forward and backward, per token of the batch before `prepare`."""
        return count.flops_per_token(model, length)

    def rates(self, progress: float) -> dict[str, float]:
        """Return the values of the objective's schedules at `progress`, for the log (`mask_rate`)."""
        return {}
