"""Tasks with one of several classes: decoding, metrics and calibration, and a softmax over classes. arXiv:1810.04805

Shapes: R rows, E examples, C classes.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import InputError
from encodery.base.settings import check_interval
from encodery.finetune.calibration import fit_temperature, reliability_diagram, softmax
from encodery.finetune.examples import Examples
from encodery.finetune.heads.labels import (
    ClassWeighting,
    class_weights,
    count_labels,
    has_soft_labels,
    label_indices,
    label_names,
    soft_labels,
)
from encodery.finetune.heads.pooled import HeadedModule, HeadedTask, PooledHead
from encodery.finetune.heads.windowed_rows import encode_rows, examples_of_rows, mean_over_windows
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Answer, Rows, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.metrics.accuracy import Accuracy
from encodery.metrics.f1 import F1
from encodery.metrics.mcc import MCC
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, LossTerm

MIN_CALIBRATION_ROWS = 30
"""With fewer rows a temperature would fit noise, and none is fitted."""


@dataclass(frozen=True, kw_only=True)
class SingleLabelTask(Task, abc.ABC):
    """A task whose answer is one of the labels, whatever computes the logits (R, C) of rows."""

    selection_metric: ClassVar[str] = "f1"
    chart: ClassVar[Literal["classes", "none"]] = "classes"

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        labels, counts = count_labels(label_names(rows["label"]))
        check_several(labels)
        return TaskMetadata(labels=tuple(labels), counts=tuple(map(float, counts)))

    def logits(self, outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        """Return the logits (R, C) of rows from the outputs (C,) of their windows."""
        return mean_over_windows(outputs, examples)

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        probabilities = softmax(self.logits(outputs, examples), calibration.get("temperature", 1.0))
        labels = metadata.labels
        return [
            {
                "prediction": labels[int(row.argmax())],
                "probability": float(row.max()),
                "probabilities": dict(zip(labels, row.tolist(), strict=True)),
            }
            for row in probabilities
        ]

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        expected, predicted = label_names(rows["label"]), [answer["prediction"] for answer in answers]
        of_label = [answer["probabilities"].get(label, 0.0) for answer, label in zip(answers, expected, strict=True)]
        correct = np.array([a == b for a, b in zip(expected, predicted, strict=True)])
        confidence = np.array([answer["probability"] for answer in answers])
        return {
            "accuracy": Accuracy().score(expected, predicted),
            "f1": F1().score(expected, predicted),
            "mcc": MCC().score(expected, predicted),
            "nll": float(-np.log(np.maximum(of_label, 1e-12)).mean()),
            "ece": reliability_diagram(confidence, correct).error,
        }

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        """See `Task`. Fits a temperature on at least 30 rows whose label occurs in training."""
        expected = label_names(rows["label"])
        known = np.array([label in metadata.labels for label in expected])
        logits = self.logits(outputs, examples)[known]
        if len(logits) < MIN_CALIBRATION_ROWS:
            return {}
        classes = label_indices([label for label, keep in zip(expected, known, strict=True) if keep], metadata.labels)
        return {"temperature": fit_temperature(logits, classes)}


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(SingleLabelTask, HeadedTask, abc.ABC):
    """A softmax over classes on a pooled head.

    `class_weights`: classes are weighted in the loss by their inverse frequency ("balanced") or its root ("root").
    `label_smoothing`: fraction of a row's weight that is spread over all classes (arXiv:1512.00567); it keeps a few
    hundred rows from being memorised, from which a pre-trained encoder gains more than random weights do
    (bench/LOG.md). A training row may have a probability for each label in place of one label (arXiv:1503.02531).
    """

    class_weights: ClassWeighting = "none"
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self, "0 <= x < 1", "label_smoothing")

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        matching = self.token_matching and "text_b" in rows
        if not has_soft_labels(rows["label"]):
            return replace(super().fit_labels(rows), token_matching=matching)
        labels, probabilities = soft_labels(rows["label"])
        check_several(labels)
        counts = np.maximum(probabilities.sum(0), 1e-6).tolist()
        return TaskMetadata(labels=tuple(labels), counts=tuple(counts), token_matching=matching)

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        sequences, dropped = encode_rows(rows, preprocessor)
        targets = self._targets(rows["label"], metadata) if with_targets else {}
        return examples_of_rows(sequences, dropped, preprocessor, metadata, targets)

    def _targets(self, values: Sequence[Any], metadata: TaskMetadata) -> dict[str, np.ndarray]:
        """Return `label` (R,), of soft labels the most probable, and `soft_labels` (R, C) if there are any."""
        if not has_soft_labels(values):
            return {"label": label_indices(label_names(values), metadata.labels)}
        labels, probabilities = soft_labels(values)
        wide = np.zeros((len(probabilities), len(metadata.labels)), np.float32)
        wide[:, label_indices(labels, metadata.labels)] = probabilities
        return {"label": wide.argmax(1), "soft_labels": wide}

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _ClassificationModule(self, shape, metadata)


def check_several(labels: Sequence[str]) -> None:
    """Raise `InputError` if there are fewer than two labels."""
    if len(labels) < 2:
        why = f"all rows have the label '{labels[0]}'" if labels else "there are no rows"
        raise InputError(f"There is nothing to distinguish: {why}.")


class _ClassificationModule(HeadedModule):
    is_softmax = True
    class_weights: Tensor

    def __init__(self, task: ClassificationTask, shape: Shape, metadata: TaskMetadata) -> None:
        super().__init__(PooledHead(shape.width, len(metadata.labels), task, metadata))
        self.label_smoothing = task.label_smoothing
        weights = torch.tensor(class_weights(metadata.counts, task.class_weights))
        self.register_buffer("class_weights", weights, persistent=False)

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"classes": self.class_weights[batch.extra["label"]].sum()}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        label = batch.extra["label"]
        log_probabilities = predicted.log_softmax(-1)
        weight = self.class_weights[label]
        soft = batch.extra.get("soft_labels")
        if soft is None:
            of_label = log_probabilities.gather(1, label[:, None])[:, 0]
        else:
            of_label = (soft * log_probabilities).sum(1)
        each = -(1 - self.label_smoothing) * of_label - self.label_smoothing * log_probabilities.mean(1)
        return {
            "classes": LossTerm((weight * each).sum(), weight.sum()),
            "accuracy": LossTerm((predicted.argmax(-1) == label).sum(), len(label), 0.0),
        }
