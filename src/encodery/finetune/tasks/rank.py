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
from encodery.finetune.reader import Reader
from encodery.finetune.tasks import Answer, Form, Known, Rows, TaskModule
from encodery.finetune.tasks._head import Head, Headed, HeadedModule, gathered
from encodery.finetune.tasks._labels import numbers
from encodery.metrics.ndcg import NDCG
from encodery.metrics.spearman import Spearman
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, Term


@dataclass(frozen=True, kw_only=True)
class Rank(Headed):
    """`pooling`, `hidden`, `dropout`, `rate` and `matching` are those of the head (`pair`). `normed`: its hidden layer
    has gelu and a norm in place of tanh."""

    forms: ClassVar[tuple[Form, ...]] = (
        Form(("query", "text"), ("score",), apart=("query",)),
        Form(("query", "text"), ("label",), apart=("query",)),
    )
    goal: ClassVar[str] = "goal"

    normed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normed and not self.hidden:
            raise SettingsError("normed = true: is of a hidden layer; hidden = true gives one.")

    def learn(self, rows: Rows) -> dict[str, Any]:
        scores = numbers(_column(rows))
        if not len(scores) or scores.min() == scores.max():
            raise InputError("There is nothing to tell apart: all rows have the same score, or there are none.")
        return {"low": float(scores.min()), "high": float(scores.max()), **self.matched(True)}

    def prepare(self, rows: Rows, reader: Reader, known: Known, targets: bool) -> Examples:
        found, dropped = reader.pairs(rows["query"], rows["text"])
        told = {}
        if targets:
            shares = (numbers(_column(rows)) - known["low"]) / (known["high"] - known["low"])
            told["score"] = shares.astype(np.float32)
        return gathered(found, dropped, reader, known, told)

    def build(self, shape: Shape, known: Known) -> TaskModule:
        return _RankModule(Head(shape.width, 1, self, known, self.normed))

    def decode(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, known: Known, tuned: Mapping[str, float]
    ) -> list[Answer]:
        logits = np.full(examples.rows, -math.inf)
        np.maximum.at(logits, examples.row, np.stack(outputs)[:, 0].astype(np.float64))
        shares = 1 / (1 + np.exp(-logits))
        return [
            {"prediction": known["low"] + share * (known["high"] - known["low"]), "logit": logit}
            for share, logit in zip(shares.tolist(), logits.tolist(), strict=True)
        ]

    def figures(self, answers: Sequence[Answer], rows: Rows, known: Known) -> dict[str, float]:
        """nDCG@10 over the queries of which several texts are judged, one of them above the lowest score; `goal` is
        that, or the correlation of ranks where there is no such query."""
        truth, given = numbers(_column(rows)), [answer["logit"] for answer in answers]
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

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, Term]:
        total = F.binary_cross_entropy_with_logits(predicted[:, 0], batch.extra["score"], reduction="sum")
        return {"score": Term(total, len(batch))}


def _column(rows: Rows) -> Sequence[Any]:
    return rows["score" if "score" in rows else "label"]
