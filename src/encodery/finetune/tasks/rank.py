"""How well a text answers a query, read together: a cross-encoder, one score through a sigmoid. arXiv:1901.04085

Scores of any range (0 and 1, grades, ratings) are learnt as shares of it. A row's windows, where its text is too long
under "chunk", count by the best of them. Shapes: R rows, E examples.
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

from encodery.base.errors import InputError, SettingsError
from encodery.finetune.examples import Examples
from encodery.finetune.heads.labels import score_values
from encodery.finetune.heads.pooled import HeadedModule, HeadedTask, PooledHead, examples_of_rows
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.tasks import Answer, Rows, RowSchema, TaskMetadata, TaskModule
from encodery.metrics.ndcg import NDCG
from encodery.metrics.spearman import Spearman
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class PassageRanking(HeadedTask):
    """`pooling`, `hidden`, `dropout`, `rate` and `matching` are those of the head (`pair`). `normed`: its hidden layer
    has gelu and a norm in place of tanh."""

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("query", "text"), ("score",), group_by=("query",)),
        RowSchema(("query", "text"), ("label",), group_by=("query",)),
    )
    selection_metric: ClassVar[str] = "goal"

    head_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_norm and not self.head_dense:
            raise SettingsError("normed = true: is of a hidden layer; hidden = true gives one.")

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        scores = score_values(_column(rows))
        if not len(scores) or scores.min() == scores.max():
            raise InputError("There is nothing to tell apart: all rows have the same score, or there are none.")
        return {"low": float(scores.min()), "high": float(scores.max()), **self.matching_metadata(True)}

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        found, dropped = preprocessor.encode_pairs(rows["query"], rows["text"])
        told = {}
        if with_targets:
            shares = (score_values(_column(rows)) - metadata["low"]) / (metadata["high"] - metadata["low"])
            told["score"] = shares.astype(np.float32)
        return examples_of_rows(found, dropped, preprocessor, metadata, told)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _RankModule(PooledHead(shape.width, 1, self, metadata, self.head_norm))

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
        shares = 1 / (1 + np.exp(-logits))
        return [
            {"prediction": metadata["low"] + share * (metadata["high"] - metadata["low"]), "logit": logit}
            for share, logit in zip(shares.tolist(), logits.tolist(), strict=True)
        ]

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        """nDCG@10 over the queries of which several texts are judged, one of them above the lowest score; `goal` is
        that, or the correlation of ranks where there is no such query."""
        truth, given = score_values(_column(rows)), [answer["logit"] for answer in answers]
        found = {"spearman": Spearman().score(truth, given)}
        grades, run = defaultdict[str, dict[str, int]](dict), defaultdict[str, dict[str, float]](dict)
        levels = np.unique(truth)
        for row, query in enumerate(rows["query"]):
            grades[query][str(row)] = int(np.searchsorted(levels, truth[row]))
            run[query][str(row)] = given[row]
        several = {query: some for query, some in grades.items() if len(some) > 1 and max(some.values()) > 0}
        if several:
            found["ndcg"] = NDCG(k=10).score(several, run)
        return {**found, "goal": found.get("ndcg", found["spearman"])}


class _RankModule(HeadedModule):
    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"score": len(batch)}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        total = F.binary_cross_entropy_with_logits(predicted[:, 0], batch.extra["score"], reduction="sum")
        return {"score": LossTerm(total, len(batch))}


def _column(rows: Rows) -> Sequence[Any]:
    return rows["score" if "score" in rows else "label"]
