"""What an encoder is fine-tuned to say of a row: a class, tags, a span, a score.

A task reads rows by *roles* (text, label, …), never by column names; makes examples of them; puts a module on the
encoder; and turns what the module gives into answers. It computes nothing at import and holds no weights. The rule of
losses is that of objectives: named sums with counts (`encodery.objectives`).
Shapes: R rows, E examples, S sequences, T tokens, H width, C classes or numbers an example gets.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from encodery.base.errors import InputError
from encodery.base.parts import Part, name_of
from encodery.finetune.examples import Examples
from encodery.finetune.preprocess import Preprocessor
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, LossTerm
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import Truncate

Rows = Mapping[str, Sequence[Any]]
"""Role -> its value in each row."""
TaskMetadata = Mapping[str, Any]
"""What the training rows told, as JSON: the labels, the mean of scores."""
EncodedBatches = Callable[[], Iterable[tuple[Output, Batch]]]
"""What the model, in evaluation, gives for a sample of the training rows; it is computed only if asked for."""
Answer = dict[str, Any]
"""What is said of a row, as JSON: `prediction`, and whatever more a task has to say."""
AnswerItem = tuple[Any, ...]
"""One of the things an answer is a set of: (label,) or (start, stop, label) in words or characters; the label last."""


@dataclass(frozen=True)
class RowSchema:
    """Roles of rows a task understands: what it reads, and what it learns to say. `apart`: the inputs of which equal
    ones stay on one side when rows are held out; all of them together where none is named."""

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    group_by: tuple[str, ...] = ()


class TaskModule(nn.Module):
    """A task's weights on the encoder. `per`: what `forward` gives a row of numbers for."""

    granularity: ClassVar[Literal["example", "sequence", "token"]] = "example"

    def fit(self, encoded: EncodedBatches) -> None:
        """Called once, before the first step: what is learnt without gradients from how the model sees the rows."""

    @abc.abstractmethod
    def forward(self, output: Output, batch: Batch) -> Tensor:
        """(E, C), (S, C) or (T, C), as `per` says, in the order of the batch."""

    @abc.abstractmethod
    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        """The terms, from what `forward` gave and the targets in `batch.extra`."""

    @abc.abstractmethod
    def counts(self, batch: Batch) -> dict[str, Count]:
        """The count of every learned term `loss` will return, known before the model runs."""


class Task(Part):
    """Contract of a task.

    `forms`: the rows it understands, the first that fits is taken. `goal`: the figure by which the best weights are
    chosen, higher being better. `truncate`: its usual policy for what is too long. `chart`: what its figures can be
    drawn as in a report ("classes" has a confusion matrix and a calibration curve). `speaks`: whether the model's own
    masked-language-model head answers (`Output.mlm_logits`); it then learns with the model.
    """

    schemas: ClassVar[tuple[RowSchema, ...]]
    selection_metric: ClassVar[str]
    truncate: ClassVar[Truncate] = "right"
    chart: ClassVar[Literal["classes", "none"]] = "none"
    uses_mlm_head: ClassVar[bool] = False

    @abc.abstractmethod
    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        """What the training rows tell beside their texts. Raises `InputError` where nothing can be learnt from them."""

    def fit_metadata(self, rows: Rows, tokenizer: Tokenizer) -> dict[str, Any]:
        """What is known before examples are made: what `learn` says, and what a task needs of the vocabulary."""
        return self.fit_labels(rows)

    @abc.abstractmethod
    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        """The examples of rows, with their targets if they are asked for.

        Raises `InputError` naming the row whose target or text cannot be used.
        """

    @abc.abstractmethod
    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        """The module, freshly initialised from torch's generator."""

    @abc.abstractmethod
    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        """The answer (R) for each row, from what the module gave for each example."""

    @abc.abstractmethod
    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        """Figures of quality, `goal` among them."""

    def answer_items(self, rows: Rows, answers: Sequence[Answer] | None = None) -> list[set[AnswerItem]] | None:
        """(R) what each row's answer is a set of, by its truth or, where they are given, by `answers`; None for a task
        whose answers are no sets. Raises `InputError` naming a row whose truth cannot be used."""
        return None

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        """What `decode` takes as `tuned`: a temperature, a threshold, chosen on rows that were not learnt from."""
        return {}

    def schema_for(self, roles: Sequence[str], with_targets: bool) -> RowSchema:
        """The form of rows that have these roles. Raises `InputError` naming what lacks."""
        for form in self.schemas:
            if all(role in roles for role in (*form.inputs, *(form.targets if with_targets else ()))):
                return form
        wanted = " or ".join(
            " + ".join((*form.inputs, *(form.targets if with_targets else ()))) for form in self.schemas
        )
        raise InputError(f"task '{name_of(self)}': wants {wanted}; the data has {', '.join(roles) or 'none of them'}.")
