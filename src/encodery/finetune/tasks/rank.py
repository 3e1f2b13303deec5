"""How well a text answers a query, read together: a cross-encoder with one sigmoid score. arXiv:1901.04085

Scores of any range (0 and 1, grades, ratings) are learned as fractions of that range. If a text is read in windows
(`truncate = "chunk"`), the row has the score of the best of them. Shapes: R rows, E examples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.finetune.examples import Examples
from encodery.finetune.heads.labels import check_scores_differ, score_values
from encodery.finetune.heads.pooled import HeadedModule, HeadedTask, PooledHead
from encodery.finetune.heads.windowed_rows import examples_of_rows
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Answer, Rows, RowSchema, TaskMetadata
from encodery.metrics.ndcg import NDCG
from encodery.metrics.spearman import Spearman
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class PassageRanking(HeadedTask):
    """Score how well a text answers a query.

    `head_norm`: the dense layer of the head is followed by GELU and a layer norm in place of tanh. The other settings
    are those of the head (`pair`). Use it to rerank the hits of a search:

        encodery finetune rank msmarco.tsv --model run --out reranker
        # a row: {"query": "capital of France", "text": "Paris is the capital of France.", "score": 1}
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("query", "text"), ("score",), group_by=("query",)),
        RowSchema(("query", "text"), ("label",), group_by=("query",)),
    )
    selection_metric: ClassVar[str] = "ndcg_or_spearman"

    head_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_norm and not self.head_dense:
            raise SettingsError("head_norm = true: belongs to a dense layer; set head_dense = true.")

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        scores = score_values(_score_column(rows))
        check_scores_differ(scores)
        return TaskMetadata(low=float(scores.min()), high=float(scores.max()), token_matching=self.token_matching)

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        sequences, dropped = preprocessor.encode_pairs(rows["query"], rows["text"])
        targets = {}
        if with_targets:
            fractions = (score_values(_score_column(rows)) - metadata.low) / (metadata.high - metadata.low)
            targets["score"] = fractions.astype(np.float32)
        return examples_of_rows(sequences, dropped, preprocessor, metadata, targets)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _RankingModule(PooledHead(shape.width, 1, self, metadata, self.head_norm))

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        logits = np.full(examples.num_rows, -math.inf)
        np.maximum.at(logits, examples.row, np.stack(outputs)[:, 0].astype(np.float64))
        fractions = 1 / (1 + np.exp(-logits))
        return [
            {"prediction": metadata.low + fraction * (metadata.high - metadata.low), "logit": logit}
            for fraction, logit in zip(fractions.tolist(), logits.tolist(), strict=True)
        ]

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        """Return Spearman's correlation, and nDCG@10 over queries with several judged texts of which one is above the
        lowest score; `ndcg_or_spearman` is nDCG, or the correlation if there is no such query."""
        expected, predicted = score_values(_score_column(rows)), [answer["logit"] for answer in answers]
        metrics = {"spearman": Spearman().score(expected, predicted)}
        grades, run = defaultdict[str, dict[str, int]](dict), defaultdict[str, dict[str, float]](dict)
        levels = np.unique(expected)
        for row, query in enumerate(rows["query"]):
            grades[query][str(row)] = int(np.searchsorted(levels, expected[row]))
            run[query][str(row)] = predicted[row]
        judged = {query: own for query, own in grades.items() if len(own) > 1 and max(own.values()) > 0}
        if judged:
            metrics["ndcg"] = NDCG(k=10).score(judged, run)
        return {**metrics, "ndcg_or_spearman": metrics.get("ndcg", metrics["spearman"])}


class _RankingModule(HeadedModule):
    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"score": len(batch)}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        total = F.binary_cross_entropy_with_logits(predicted[:, 0], batch.extra["score"], reduction="sum")
        return {"score": LossTerm(total, len(batch))}


def _score_column(rows: Rows) -> Sequence[Any]:
    return rows["score" if "score" in rows else "label"]
