"""Losses of embeddings: similarities, scores and labels in, named loss terms out. A loss never sees a model.

Terms are sums with counts (`encodery.objectives`), so that micro-batches and processes can be added up.
Shapes: B examples, C columns (texts of an example).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from encodery.base.parts import Part
from encodery.embed.loss_inputs import LossInputs
from encodery.objectives import Count, LossTerm

TargetKind = Literal["none", "score", "scores", "label"]
"""What an example is labelled with: nothing; one similarity score of its two texts; a score for each text after the
first; or the class of its one text."""


class Loss(Part):
    """Contract of a loss. Its properties are tags for objectives, the reader of the data and contract tests."""

    @property
    def in_batch(self) -> bool:
        """Whether the loss of an example depends on the other examples of its batch; True by default."""
        return True

    @property
    def target_kind(self) -> TargetKind:
        """What `LossInputs.target` must hold; nothing by default."""
        return "none"

    @property
    def column_range(self) -> tuple[int, int | None]:
        """The smallest and the largest number of texts of an example (None: no limit); at least a pair by default."""
        return 2, None

    @property
    def needs_guide(self) -> bool:
        """Whether `LossInputs.guide` must be given; False by default."""
        return False

    @property
    def needs_vectors(self) -> bool:
        """Whether it computes with one vector per text, not with similarities alone; False by default."""
        return False

    def sample_layers(self, depth: int, seed: int) -> tuple[int, ...]:
        """Return which of the layers 1 … depth - 1 it needs embeddings of besides the last; none by default."""
        return ()

    @abc.abstractmethod
    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        """Return the count of every learned term, before there are embeddings."""

    @abc.abstractmethod
    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        """Return the learned terms, and terms of weight 0 that are only reported."""
