"""Objectives: what a model is trained on. `_terms.py` says how the losses of micro-batches and ranks add up."""

from __future__ import annotations

import abc

from encodery.base.parts import Part
from encodery.corrupt import Vocabulary
from encodery.model.settings import ModelSettings
from encodery.objectives._expected_loss import LossRange, RunSize
from encodery.objectives._heldout import cross_entropy_metrics, masked_token_terms
from encodery.objectives._module import ObjectiveModule, auxiliary_terms
from encodery.objectives._terms import Count, LossTerm, normalised_loss, step_metrics, sum_counts
from encodery.tokens.feeds import DataFeed

__all__ = [
    "Count",
    "LossRange",
    "LossTerm",
    "Objective",
    "ObjectiveModule",
    "RunSize",
    "auxiliary_terms",
    "cross_entropy_metrics",
    "masked_token_terms",
    "normalised_loss",
    "step_metrics",
    "sum_counts",
]


class Objective(Part):
    """Contract: a part holds the settings, `build` makes the module that the training loop calls."""

    @property
    def feed(self) -> DataFeed | None:
        """What the sequences of a batch are made of; None for pieces of documents. The module's `prepare` gets the
        batch's `segment`, and in `extra` the label `relation` (B,) of each sequence."""
        return None

    @abc.abstractmethod
    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        """Return the module for such a model; `init_weights` or a checkpoint fills its weights, if any."""

    def incompatibility(self, model: ModelSettings) -> str | None:
        """Return why the objective cannot train such a model; None if it can. By default a decoder is refused."""
        return None if model.decoder is None else "does not train a decoder: remove model.decoder, or use 'infilling'."

    def num_parameters(self, model: ModelSettings) -> int:
        """Return the number of weights that the objective has besides the model's."""
        return 0

    def activation_bytes(self, model: ModelSettings, tokens: int, length: int) -> int:
        """Return the bytes that its own modules keep for the backward pass of `tokens` tokens, in sequences of
        `length`, besides what `model` keeps."""
        return 0

    def expected_loss(self, run: RunSize) -> LossRange | None:
        """Return the usual held-out losses of a run from random weights; None if nothing is known."""
        return None

    def max_predictions(self, tokens: int) -> int | None:
        """Return the most positions predicted in a batch of `tokens` tokens; None if shapes depend on its content.

        With a number, `prepare` keeps the batch's shapes and adds only `masked_positions` and `labels` of at most that
        length, which may be `IGNORE_INDEX`. Raises `SettingsError` if other settings allow static shapes.
        """
        return None
