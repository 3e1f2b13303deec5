"""A number for a text or a pair of texts: similarity, rating, price. Squared error on standardised scores.

Equals `classify` except for the loss and its single output. The mean and standard deviation of the training scores are
stored, so that predictions are on their scale. Shapes: R rows, E examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from encodery.finetune.examples import Examples
from encodery.finetune.heads.labels import check_scores_differ, score_values
from encodery.finetune.heads.pooled import HeadedModule, HeadedTask, PooledHead
from encodery.finetune.heads.windowed_rows import encode_rows, examples_of_rows, mean_over_windows
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Answer, Rows, RowSchema, TaskMetadata
from encodery.metrics.pearson import Pearson
from encodery.metrics.spearman import Spearman
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class TextRegression(HeadedTask):
    """Predict a number. The settings are those of the head (`pair`).

    Use it when rows have a score on a continuous scale:

        encodery finetune regress sts.csv --model run --out similarity
        # a row: {"text": "A dog runs.", "text_b": "A dog is running.", "score": 4.8}
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("text", "text_b"), ("score",)),
        RowSchema(("text",), ("score",)),
    )
    selection_metric: ClassVar[str] = "spearman"

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        scores = score_values(rows["score"])
        check_scores_differ(scores)
        matching = self.token_matching and "text_b" in rows
        return TaskMetadata(mean=float(scores.mean()), std=float(scores.std()), token_matching=matching)

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        sequences, dropped = encode_rows(rows, preprocessor)
        targets = {}
        if with_targets:
            targets["score"] = ((score_values(rows["score"]) - metadata.mean) / metadata.std).astype(np.float32)
        return examples_of_rows(sequences, dropped, preprocessor, metadata, targets)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _RegressionModule(PooledHead(shape.width, 1, self, metadata))

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        scores = mean_over_windows(outputs, examples)[:, 0] * metadata.std + metadata.mean
        return [{"prediction": score} for score in scores.tolist()]

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        expected, predicted = score_values(rows["score"]).tolist(), [answer["prediction"] for answer in answers]
        errors = np.subtract(expected, predicted)
        return {
            "spearman": Spearman().score(expected, predicted),
            "pearson": Pearson().score(expected, predicted),
            "rmse": float(np.sqrt((errors**2).mean())),
            "mae": float(np.abs(errors).mean()),
        }


class _RegressionModule(HeadedModule):
    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"square": len(batch)}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        return {"square": LossTerm((predicted[:, 0] - batch.extra["score"]).square().sum(), len(batch))}
