"""A class for a text: mean of the hidden states, dropout, one linear map, softmax. arXiv:1810.04805

Differs from BERT's own head, which reads [CLS] alone through a dense layer: an encoder trained by masked language
modelling only has no use for its [CLS]. `pooling = "cls"`, `hidden = true` is that head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encodery.finetune.heads.classification import ClassificationTask
from encodery.finetune.tasks import RowSchema


@dataclass(frozen=True, kw_only=True)
class TextClassification(ClassificationTask):
    """One of the labels that stand in the training rows. A text in windows gets the mean of their logits."""

    schemas: ClassVar[tuple[RowSchema, ...]] = (RowSchema(("text",), ("label",)),)
