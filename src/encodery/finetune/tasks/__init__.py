"""Tasks of fine-tuning: what an encoder learns to predict for a row (a class, tags, a span, a score).

A task reads columns by their *roles* (text, label, …), makes examples, builds a module on the encoder and decodes its
outputs into answers. Shapes: R rows, E examples.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from encodery.base.parts import Part, name_of
from encodery.finetune.examples import Examples
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Answer, AnswerItem, Rows, RowSchema, TaskMetadata, first_schema
from encodery.model.shape import Shape
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import Truncate


class Task(Part):
    """Contract of a task."""

    schemas: ClassVar[tuple[RowSchema, ...]]  # the first one that the columns satisfy is used
    selection_metric: ClassVar[str]  # of `metrics`; the weights with the highest value on dev rows are kept
    truncate: ClassVar[Truncate] = "right"  # the default policy for texts that are too long
    chart: ClassVar[Literal["classes", "none"]] = "none"  # "classes": a report draws confusion and calibration
    uses_mlm_head: ClassVar[bool] = False  # whether the model's masked-language-model head answers and is trained

    @abc.abstractmethod
    def fit_labels(self, rows: Rows) -> TaskMetadata:
        """Return labels or ranges of the training rows. Raises `InputError` where nothing can be learned from them."""

    def fit_metadata(self, rows: Rows, tokenizer: Tokenizer) -> TaskMetadata:
        """Return `fit_labels` with what depends on the vocabulary."""
        return self.fit_labels(rows)

    @abc.abstractmethod
    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        """Return the examples of rows. Raises `InputError` naming the row whose text or target cannot be used."""

    @abc.abstractmethod
    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        """Return the module, initialised from torch's generator."""

    @abc.abstractmethod
    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        """Return the answer of each row (R) from the module's output for each example (E)."""

    @abc.abstractmethod
    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        """Return metrics of quality, `selection_metric` among them."""

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        """Return the temperature or threshold for `decode`, chosen on rows that were not trained on."""
        return {}

    def answer_items(self, rows: Rows, answers: Sequence[Answer] | None = None) -> list[set[AnswerItem]] | None:
        """Return each row's set of items, of `answers` or else of its targets; None if answers are not sets."""
        return None

    def schema_for(self, roles: Sequence[str], with_targets: bool) -> RowSchema:
        """Return the first schema that the roles satisfy. Raises `InputError` naming the roles that are missing."""
        return first_schema(name_of(self), self.schemas, roles, with_targets)
