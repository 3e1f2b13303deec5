"""Any number of labels for a text or a pair of texts: a sigmoid for each label.

Differs from `classify` in that labels do not exclude each other; a label is given from a threshold on, chosen on rows
that were not learnt from. Shapes: R rows, E examples, C labels.
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
from encodery.finetune.heads.pooled import (
    HeadedModule,
    HeadedTask,
    PooledHead,
    encode_rows,
    examples_of_rows,
    mean_over_windows,
)
from encodery.finetune.heads.set_metrics import micro_f1
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.tasks import Answer, AnswerItem, Rows, RowSchema, TaskMetadata, TaskModule
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, LossTerm

THRESHOLDS = np.linspace(0.05, 0.95, 91)


@dataclass(frozen=True, kw_only=True)
class MultilabelClassification(HeadedTask):
    """`labels` of a row are a list, or a text in which `separator` stands between them. `rarest`: labels of fewer
    training rows are not learnt. `pooling`, `hidden`, `dropout`, `rate`, `matching` are those of the head (`pair`)."""

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("text", "text_b"), ("labels",)),
        RowSchema(("text",), ("labels",)),
    )
    selection_metric: ClassVar[str] = "f1"

    separator: str = ","
    min_count: int = 1

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        labels, counts = count_labels(label for some in self._sets(rows) for label in sorted(some))
        kept = [(label, n) for label, n in zip(labels, counts, strict=True) if n >= self.min_count]
        if not kept:
            raise InputError("There is nothing to learn: no row has a label.")
        told = {"labels": [label for label, _ in kept], "counts": [n for _, n in kept]}
        return {**told, **self.matching_metadata("text_b" in rows)}

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        found, dropped = encode_rows(rows, preprocessor)
        told = {"labels": _table(self._sets(rows), metadata["labels"])} if with_targets else {}
        return examples_of_rows(found, dropped, preprocessor, metadata, told)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _MultilabelModule(PooledHead(shape.width, len(metadata["labels"]), self, metadata))

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        threshold, labels = calibration.get("threshold", 0.5), metadata["labels"]
        found = _sigmoid(mean_over_windows(outputs, examples))
        return [
            {
                "prediction": [labels[place] for place in np.flatnonzero(row >= threshold).tolist()],
                "probabilities": dict(zip(labels, row.tolist(), strict=True)),
            }
            for row in found
        ]

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        truth, given = self.answer_items(rows), self.answer_items(rows, answers)
        both = list(zip(truth, given, strict=True))
        return {**micro_f1(truth, given), "exact": float(np.mean([a == b for a, b in both]))}

    def answer_items(self, rows: Rows, answers: Sequence[Answer] | None = None) -> list[set[AnswerItem]]:
        """See `Task`: labels."""
        found = self._sets(rows) if answers is None else [answer["prediction"] for answer in answers]
        return [{(label,) for label in some} for some in found]

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        """The threshold of the highest F1 over all labels; of equally good ones, that nearest to 0.5."""
        truth, chances = self._sets(rows), _sigmoid(mean_over_windows(outputs, examples))
        table = _table(truth, metadata["labels"])
        total = sum(map(len, truth))
        scores = []
        for threshold in THRESHOLDS:
            given = chances >= threshold
            below = total + given.sum()
            scores.append(2 * (given & table).sum() / below if below else 0.0)
        best = np.flatnonzero(np.isclose(scores, max(scores)))
        return {"threshold": float(THRESHOLDS[best[np.abs(THRESHOLDS[best] - 0.5).argmin()]])}

    def _sets(self, rows: Rows) -> list[set[Any]]:
        """The labels of each row. Raises `InputError` naming a row whose labels are neither a list nor a text."""
        found = []
        for row, value in enumerate(rows["labels"]):
            if isinstance(value, str):
                value = [part.strip() for part in value.split(self.separator)]
            elif not isinstance(value, list | tuple | set | np.ndarray):
                raise InputError(f"Row {row}: its labels are {value!r}; a list, or a text, is needed.")
            found.append({str(label) for label in value if str(label)})
        return found


class _MultilabelModule(HeadedModule):
    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"labels": len(batch)}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        """Summed over labels: with a mean, what a rare label teaches would shrink with the number of the others."""
        truth = batch.extra["labels"].to(predicted.dtype)
        total = F.binary_cross_entropy_with_logits(predicted, truth, reduction="sum")
        return {"labels": LossTerm(total, len(batch))}


def _table(sets: Sequence[set[Any]], labels: Sequence[str]) -> np.ndarray:
    """(R, C) bool which labels each row has; others than these are passed over."""
    at = {label: place for place, label in enumerate(labels)}
    table = np.zeros((len(sets), len(labels)), bool)
    for row, some in enumerate(sets):
        table[row, [at[label] for label in some if label in at]] = True
    return table


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-logits))
    return found
