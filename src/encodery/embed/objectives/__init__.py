"""What a text becomes, and what the model learns it from: the objectives of embedding training.

An objective is a part with settings; `build` gives the module that one run trains with it. Objectives share code by
holding parts (a head that makes vectors, a computation of a loss), never by inheriting from each other.
Shapes: E examples, C columns, B examples of a batch, P texts.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

from encodery.base.parts import Part
from encodery.embed.examples import EmbeddingExamples, column_roles, prepare_for_loss
from encodery.embed.losses import Loss
from encodery.embed.objective_context import ObjectiveContext
from encodery.embed.objective_module import EmbeddingObjectiveModule


class EmbeddingObjective(Part):
    """Contract of an objective. The properties are tags that settings and contract tests use."""

    @property
    def uses_loss(self) -> bool:
        """Whether it learns from the loss of the settings; True by default."""
        return True

    @property
    def single_window(self) -> str:
        """Why a text must be one sequence (`truncate = "chunk"` is refused); empty, the default, where it need not."""
        return ""

    def arrange(self, examples: EmbeddingExamples, loss: Loss | None) -> tuple[EmbeddingExamples, list[str]]:
        """Return the training examples as it needs them, by default as the loss does, and notes for the user."""
        assert loss is not None
        return prepare_for_loss(examples, loss), []

    def roles(self, columns: int) -> Sequence[str]:
        """Return the role of each column of an example, which chooses its prompt: a query, then documents."""
        return column_roles(columns)

    @abc.abstractmethod
    def build(self, context: ObjectiveContext) -> EmbeddingObjectiveModule:
        """Return the running half. Raises `SettingsError` where model or loss do not allow it."""
