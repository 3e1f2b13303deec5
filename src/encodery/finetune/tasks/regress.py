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
from encodery.finetune.reader import Reader
from encodery.finetune.tasks import Answer, Form, Known, Rows, TaskModule
from encodery.finetune.tasks._head import Head, Headed, HeadedModule, by_row, gathered, read
from encodery.finetune.tasks._labels import numbers
from encodery.metrics.pearson import Pearson
from encodery.metrics.spearman import Spearman
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, Term


@dataclass(frozen=True, kw_only=True)
class Regress(Headed):
    """`pooling`, `hidden`, `dropout`, `rate` and `matching` are those of the head (`pair`)."""

    forms: ClassVar[tuple[Form, ...]] = (Form(("text", "text_b"), ("score",)), Form(("text",), ("score",)))
    goal: ClassVar[str] = "spearman"

    def learn(self, rows: Rows) -> dict[str, Any]:
        scores = numbers(rows["score"])
        if not len(scores) or scores.min() == scores.max():
            raise InputError("There is nothing to tell apart: all rows have the same score, or there are none.")
        return {"mean": float(scores.mean()), "spread": float(scores.std()), **self.matched("text_b" in rows)}

    def prepare(self, rows: Rows, reader: Reader, known: Known, targets: bool) -> Examples:
        found, dropped = read(rows, reader)
        told = {}
        if targets:
            told["score"] = ((numbers(rows["score"]) - known["mean"]) / known["spread"]).astype(np.float32)
        return gathered(found, dropped, reader, known, told)

    def build(self, shape: Shape, known: Known) -> TaskModule:
        return _RegressModule(Head(shape.width, 1, self, known))

    def decode(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, known: Known, tuned: Mapping[str, float]
    ) -> list[Answer]:
        found = by_row(outputs, examples)[:, 0] * known["spread"] + known["mean"]
        return [{"prediction": value} for value in found.tolist()]

    def figures(self, answers: Sequence[Answer], rows: Rows, known: Known) -> dict[str, float]:
        truth, given = numbers(rows["score"]).tolist(), [answer["prediction"] for answer in answers]
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

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, Term]:
        return {"square": Term((predicted[:, 0] - batch.extra["score"]).square().sum(), len(batch))}
