"""A number for a text or a pair of texts: similarity, rating, price. Squared error on standardised scores.

Equals `classify` but for the loss and its single output. The mean and spread of the training scores are kept, so that
answers are on their scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from encodery.base.errors import InputError
from encodery.finetune.examples import Examples
from encodery.finetune.heads.labels import score_values
from encodery.finetune.heads.pooled import (
    HeadedModule,
    HeadedTask,
    PooledHead,
    encode_rows,
    examples_of_rows,
    mean_over_windows,
)
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.tasks import Answer, Rows, RowSchema, TaskMetadata, TaskModule
from encodery.metrics.pearson import Pearson
from encodery.metrics.spearman import Spearman
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class TextRegression(HeadedTask):
    """`pooling`, `hidden`, `dropout`, `rate` and `matching` are those of the head (`pair`)."""

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("text", "text_b"), ("score",)),
        RowSchema(("text",), ("score",)),
    )
    selection_metric: ClassVar[str] = "spearman"

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        scores = score_values(rows["score"])
        if not len(scores) or scores.min() == scores.max():
            raise InputError("There is nothing to tell apart: all rows have the same score, or there are none.")
        return {"mean": float(scores.mean()), "spread": float(scores.std()), **self.matching_metadata("text_b" in rows)}

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        found, dropped = encode_rows(rows, preprocessor)
        told = {}
        if with_targets:
            told["score"] = ((score_values(rows["score"]) - metadata["mean"]) / metadata["spread"]).astype(np.float32)
        return examples_of_rows(found, dropped, preprocessor, metadata, told)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _RegressModule(PooledHead(shape.width, 1, self, metadata))

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        found = mean_over_windows(outputs, examples)[:, 0] * metadata["spread"] + metadata["mean"]
        return [{"prediction": value} for value in found.tolist()]

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        truth, given = score_values(rows["score"]).tolist(), [answer["prediction"] for answer in answers]
        apart = np.subtract(truth, given)
        return {
            "spearman": Spearman().score(truth, given),
            "pearson": Pearson().score(truth, given),
            "rmse": float(np.sqrt((apart**2).mean())),
            "mae": float(np.abs(apart).mean()),
        }


class _RegressModule(HeadedModule):
    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"square": len(batch)}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        return {"square": LossTerm((predicted[:, 0] - batch.extra["score"]).square().sum(), len(batch))}
