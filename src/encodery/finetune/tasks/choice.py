"""One of several answers to a question: each is read with the question, a softmax over their scores. arXiv:1810.04805

Rows may have different numbers of choices. A pair of question and answer that is too long is truncated, the longer text
first. Shapes: R rows, E examples (rows), S sequences (choices).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import InputError
from encodery.finetune.calibration import fit_temperature, softmax
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.layers import grouped_log_softmax
from encodery.finetune.heads.pooled import HeadedModule, HeadedTask, PooledHead
from encodery.finetune.heads.windowed_rows import token_marks
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Answer, Rows, RowSchema, TaskMetadata
from encodery.metrics.accuracy import Accuracy
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(HeadedTask):
    """Choose one of a row's own `choices`.

    `label` of a row is the index of the correct choice, from 0, or its text; a `context` is read before the question.
    The settings are those of the head (`pair`). Use it when every row has its own answers to choose from:

        encodery finetune choice swag.jsonl --model run --out chooser
        # a row: {"question": "She opens the umbrella because", "choices": ["it rains.", "it sings."], "label": 0}
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("context", "question", "choices"), ("label",)),
        RowSchema(("question", "choices"), ("label",)),
        RowSchema(("text", "choices"), ("label",)),
    )
    selection_metric: ClassVar[str] = "accuracy"
    unsupported: ClassVar[frozenset[str]] = frozenset({"windows_drop_nothing"})  # A choice is read as one sequence.

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        if not len(rows["choices"]):
            raise InputError("There are no rows to learn from.")
        _right_choices(rows)
        return TaskMetadata(token_matching=self.token_matching)

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        if preprocessor.truncate == "chunk":
            raise InputError("truncate = 'chunk': a choice is read as one sequence; choose error, right or left.")
        choices = _choices(rows)
        questions = list(rows["question" if "question" in rows else "text"])
        if "context" in rows:
            questions = [f"{context} {text}".strip() for context, text in zip(rows["context"], questions, strict=True)]
        row_of = [row for row, own in enumerate(choices) for _ in own]
        sequences, excess = preprocessor.encode_pairs(
            [questions[row] for row in row_of], [text for own in choices for text in own]
        )
        remaining = iter([one for [one] in sequences])
        right = _right_choices(rows) if with_targets else None
        builder = ExampleBuilder(preprocessor.uses_segments)
        for row, own in enumerate(choices):
            targets = {} if right is None else {"label": right[row]}
            of_row = [next(remaining) for _ in own]
            builder.add(row, of_row, targets, token_marks(of_row, metadata))
        return builder.build(np.bincount(row_of, weights=excess, minlength=len(choices)).astype(int).tolist())

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _ChoiceModule(PooledHead(shape.width, 1, self, metadata))

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        answers = []
        for scores, choices in zip(outputs, _choices(rows), strict=True):
            probabilities = softmax(scores[:, 0][None], calibration.get("temperature", 1.0))[0]
            best = int(probabilities.argmax())
            answers.append({
                "prediction": choices[best],
                "choice": best,
                "probability": float(probabilities[best]),
                "probabilities": probabilities.tolist(),
            })  # fmt: skip
        return answers

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        right = _right_choices(rows)
        of_right = [answer["probabilities"][index] for answer, index in zip(answers, right, strict=True)]
        return {
            "accuracy": Accuracy().score(right, [answer["choice"] for answer in answers]),
            "nll": float(-np.log(np.maximum(of_right, 1e-12)).mean()),
        }

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        """See `Task`. Fits a temperature."""
        logits = np.full((len(outputs), max(map(len, outputs))), -1e4)
        for row, scores in enumerate(outputs):
            logits[row, : len(scores)] = scores[:, 0]
        return {"temperature": fit_temperature(logits, np.array(_right_choices(rows)))}


class _ChoiceModule(HeadedModule):
    granularity = "sequence"

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"choices": len(batch.extra["sizes"])}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        sizes, label = batch.extra["sizes"], batch.extra["label"]
        group = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes, output_size=len(batch))
        log_probabilities = grouped_log_softmax(predicted[:, 0], group, len(sizes))
        return {"choices": LossTerm(-log_probabilities[sizes.cumsum(0) - sizes + label].sum(), len(sizes))}


def _choices(rows: Rows) -> list[list[str]]:
    """Return the choices of each row. Raises `InputError` naming a row with fewer than two."""
    choices = []
    for row, value in enumerate(rows["choices"]):
        own = [str(text) for text in value] if isinstance(value, list | tuple | np.ndarray) else []
        if len(own) < 2:
            raise InputError(f"Row {row}: its choices are {value!r}; a list of at least two texts is needed.")
        choices.append(own)
    return choices


def _right_choices(rows: Rows) -> list[int]:
    """Return the index of each row's correct choice. Raises `InputError` naming a row whose label is not one of
    them."""
    indices = []
    for row, (own, label) in enumerate(zip(_choices(rows), rows["label"], strict=True)):
        if str(label) in own:
            indices.append(own.index(str(label)))
        elif str(label).isdigit() and int(label) < len(own):
            indices.append(int(label))
        else:
            raise InputError(f"Row {row}: label {label!r} is neither one of its choices nor the index of one, from 0.")
    return indices
