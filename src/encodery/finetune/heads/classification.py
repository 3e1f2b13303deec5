"""One of several classes for a text or a pair of texts: a softmax over classes. arXiv:1810.04805

Shapes: R rows, E examples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import InputError, SettingsError
from encodery.finetune import calibrate
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
from encodery.finetune.heads.pooled import (
    HeadedModule,
    HeadedTask,
    PooledHead,
    encode_rows,
    examples_of_rows,
    mean_over_windows,
)
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.tasks import Answer, Rows, Task, TaskMetadata, TaskModule
from encodery.metrics.accuracy import Accuracy
from encodery.metrics.f1 import F1
from encodery.metrics.mcc import MCC
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, LossTerm

MIN_CALIBRATION_ROWS = 30  # Rows below which a temperature would be fitted to chance.


@dataclass(frozen=True, kw_only=True)
class SingleLabelTask(Task):
    """Answers that are one of the labels, whatever gives the logits (R, C) of rows."""

    selection_metric: ClassVar[str] = "f1"
    chart: ClassVar[Literal["classes", "none"]] = "classes"

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        labels, counts = count_labels(label_names(rows["label"]))
        if len(labels) < 2:
            what = f"all rows have the label '{labels[0]}'" if labels else "there are no rows"
            raise InputError(f"There is nothing to tell apart: {what}.")
        return {"labels": labels, "counts": counts}

    def logits(self, outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        """(R, C) of the windows of each row."""
        return mean_over_windows(outputs, examples)

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        found = calibrate.softmax(self.logits(outputs, examples), calibration.get("temperature", 1.0))
        labels = metadata["labels"]
        return [
            {
                "prediction": labels[int(row.argmax())],
                "probability": float(row.max()),
                "probabilities": dict(zip(labels, row.tolist(), strict=True)),
            }
            for row in found
        ]

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        truth, given = label_names(rows["label"]), [answer["prediction"] for answer in answers]
        chances = [answer["probabilities"].get(label, 0.0) for answer, label in zip(answers, truth, strict=True)]
        correct = np.array([a == b for a, b in zip(truth, given, strict=True)])
        sure = np.array([answer["probability"] for answer in answers])
        return {
            "accuracy": Accuracy().score(truth, given),
            "f1": F1().score(truth, given),
            "mcc": MCC().score(truth, given),
            "nll": float(-np.log(np.maximum(chances, 1e-12)).mean()),
            "ece": calibrate.reliability_diagram(sure, correct).error,
        }

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        truth, labels = label_names(rows["label"]), list(metadata["labels"])
        kept = np.array([label in labels for label in truth])
        logits = self.logits(outputs, examples)[kept]
        if len(logits) < MIN_CALIBRATION_ROWS:
            return {}
        classes = label_indices([label for label, keep in zip(truth, kept, strict=True) if keep], labels)
        return {"temperature": calibrate.fit_temperature(logits, classes)}


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(SingleLabelTask, HeadedTask):
    """`pooling`, `hidden` and `dropout` are those of the head, which learns `rate` times as fast as the model.
    `weights`: rare classes count for more in the loss, in inverse proportion ("balanced") or by its root. `smoothing`:
    share of a row's weight that is spread over all classes (arXiv:1512.00567). A training row may have a table of
    labels and their shares in place of one label (arXiv:1503.02531). Smoothing keeps a few hundred rows from being
    learned by heart, by which what pre-training knows gains more than random weights do (bench/LOG.md)."""

    class_weights: ClassWeighting = "none"
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise SettingsError(f"smoothing = {self.label_smoothing}: must lie in 0 <= smoothing < 1.")

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        if not has_soft_labels(rows["label"]):
            return {**super().fit_labels(rows), **self.matching_metadata("text_b" in rows)}
        labels, table = soft_labels(rows["label"])
        if len(labels) < 2:
            raise InputError(f"There is nothing to tell apart: all rows have the label '{labels[0]}'.")
        counts = np.maximum(table.sum(0), 1e-6).tolist()
        return {"labels": labels, "counts": counts, **self.matching_metadata("text_b" in rows)}

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        found, dropped = encode_rows(rows, preprocessor)
        return examples_of_rows(
            found, dropped, preprocessor, metadata, self._targets(rows["label"], metadata) if with_targets else {}
        )

    def _targets(self, values: Sequence[Any], known: TaskMetadata) -> dict[str, np.ndarray]:
        """`label` (R,), the likeliest where there are `shares` (R, C)."""
        if not has_soft_labels(values):
            return {"label": label_indices(label_names(values), known["labels"])}
        labels, table = soft_labels(values)
        wide = np.zeros((len(table), len(known["labels"])), np.float32)
        wide[:, label_indices(labels, known["labels"])] = table
        return {"label": wide.argmax(1), "shares": wide}

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _ClassesModule(self, shape, metadata)


class _ClassesModule(HeadedModule):
    class_weights: Tensor

    def __init__(self, settings: ClassificationTask, shape: Shape, known: TaskMetadata) -> None:
        super().__init__(PooledHead(shape.width, len(known["labels"]), settings, known))
        self.smoothing = settings.label_smoothing
        told = torch.tensor(class_weights(known["counts"], settings.class_weights))
        self.register_buffer("class_weights", told, persistent=False)

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"classes": self.class_weights[batch.extra["label"]].sum()}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        label = batch.extra["label"]
        logs = predicted.log_softmax(-1)
        weight = self.class_weights[label]
        shared = batch.extra.get("shares")
        told = logs.gather(1, label[:, None])[:, 0] if shared is None else (shared * logs).sum(1)
        each = -(1 - self.smoothing) * told - self.smoothing * logs.mean(1)
        return {
            "classes": LossTerm((weight * each).sum(), weight.sum()),
            "right": LossTerm((predicted.argmax(-1) == label).sum(), len(label), 0.0),
        }
