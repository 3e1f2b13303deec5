"""Any number of labels for a text or a pair of texts: a sigmoid for each label.

Differs from `classify`: labels do not exclude each other. A label is predicted from a threshold on, which is chosen on
held-out rows. Shapes: R rows, E examples, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import InputError
from encodery.finetune.examples import Examples
from encodery.finetune.heads.labels import count_labels
from encodery.finetune.heads.pooled import HeadedModule, HeadedTask, PooledHead
from encodery.finetune.heads.set_metrics import micro_f1
from encodery.finetune.heads.windowed_rows import encode_rows, examples_of_rows, mean_over_windows
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Answer, AnswerItem, Rows, RowSchema, TaskMetadata
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, LossTerm

THRESHOLDS = np.linspace(0.05, 0.95, 91)


@dataclass(frozen=True, kw_only=True)
class MultilabelClassification(HeadedTask):
    """Predict a set of labels. `labels` of a row is a list, or a text with `separator` between labels.

    `min_count`: labels of fewer training rows are not learned. The other settings are those of the head (`pair`).
    Use it when a text can have several labels, or none:

        encodery finetune multilabel tickets.csv --model run --out topics
        # a row: {"text": "The invoice is wrong and late.", "labels": "billing, delay"}
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("text", "text_b"), ("labels",)),
        RowSchema(("text",), ("labels",)),
    )
    selection_metric: ClassVar[str] = "f1"

    separator: str = ","
    min_count: int = 1

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        labels, counts = count_labels(label for own in self._label_sets(rows) for label in sorted(own))
        kept = [(label, float(n)) for label, n in zip(labels, counts, strict=True) if n >= self.min_count]
        if not kept:
            raise InputError("There is nothing to learn: no row has a label.")
        return TaskMetadata(
            labels=tuple(label for label, _ in kept),
            counts=tuple(n for _, n in kept),
            token_matching=self.token_matching and "text_b" in rows,
        )

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        sequences, dropped = encode_rows(rows, preprocessor)
        targets = {"labels": _indicators(self._label_sets(rows), metadata.labels)} if with_targets else {}
        return examples_of_rows(sequences, dropped, preprocessor, metadata, targets)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _MultilabelModule(PooledHead(shape.width, len(metadata.labels), self, metadata))

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        threshold, labels = calibration.get("threshold", 0.5), metadata.labels
        return [
            {
                "prediction": [labels[index] for index in np.flatnonzero(row >= threshold).tolist()],
                "probabilities": dict(zip(labels, row.tolist(), strict=True)),
            }
            for row in _sigmoid(mean_over_windows(outputs, examples))
        ]

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        expected, predicted = self.answer_items(rows), self.answer_items(rows, answers)
        exact = [a == b for a, b in zip(expected, predicted, strict=True)]
        return {**micro_f1(expected, predicted), "exact": float(np.mean(exact))}

    def answer_items(self, rows: Rows, answers: Sequence[Answer] | None = None) -> list[set[AnswerItem]]:
        """See `Task`. The items are labels."""
        label_sets = self._label_sets(rows) if answers is None else [answer["prediction"] for answer in answers]
        return [{(label,) for label in own} for own in label_sets]

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        """See `Task`. Chooses the threshold with the highest F1 over all labels; of equal ones, that nearest to 0.5."""
        expected, probabilities = self._label_sets(rows), _sigmoid(mean_over_windows(outputs, examples))
        indicators = _indicators(expected, metadata.labels)
        total = sum(map(len, expected))
        scores = []
        for threshold in THRESHOLDS:
            predicted = probabilities >= threshold
            denominator = total + predicted.sum()
            scores.append(2 * (predicted & indicators).sum() / denominator if denominator else 0.0)
        best = np.flatnonzero(np.isclose(scores, max(scores)))
        return {"threshold": float(THRESHOLDS[best[np.abs(THRESHOLDS[best] - 0.5).argmin()]])}

    def _label_sets(self, rows: Rows) -> list[set[Any]]:
        """Return each row's labels. Raises `InputError` naming a row whose labels are neither a list nor a text."""
        label_sets = []
        for row, value in enumerate(rows["labels"]):
            if isinstance(value, str):
                value = [part.strip() for part in value.split(self.separator)]
            elif not isinstance(value, list | tuple | set | np.ndarray):
                raise InputError(f"Row {row}: its labels are {value!r}; a list or a text is needed.")
            label_sets.append({str(label) for label in value if str(label)})
        return label_sets


class _MultilabelModule(HeadedModule):
    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"labels": len(batch)}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        """Sum over labels: under a mean the gradient of a rare label would shrink with the number of other labels."""
        expected = batch.extra["labels"].to(predicted.dtype)
        total = F.binary_cross_entropy_with_logits(predicted, expected, reduction="sum")
        return {"labels": LossTerm(total, len(batch))}


def _indicators(label_sets: Sequence[set[Any]], labels: Sequence[str]) -> np.ndarray:
    """Return (R, C) bool, the labels of each row; labels that are not in `labels` are ignored."""
    index_of = {label: index for index, label in enumerate(labels)}
    indicators = np.zeros((len(label_sets), len(labels)), bool)
    for row, own in enumerate(label_sets):
        indicators[row, [index_of[label] for label in own if label in index_of]] = True
    return indicators


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    probabilities: np.ndarray = 1 / (1 + np.exp(-logits))
    return probabilities
