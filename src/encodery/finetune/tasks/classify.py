"""A class for a text: mean of the hidden states, dropout, one linear map, softmax. arXiv:1810.04805

Differs from BERT's own head, which reads [CLS] through a dense layer: an encoder pre-trained by masked language
modelling alone has not trained its [CLS]. `pooling = "cls"`, `head_dense = true` is BERT's head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encodery.finetune.heads.classification import ClassificationTask
from encodery.finetune.task_types import RowSchema


@dataclass(frozen=True, kw_only=True)
class TextClassification(ClassificationTask):
    """Predict one of the labels of the training rows for a text. The logits of its windows are averaged.

    Use it when each text has exactly one label:

        encodery finetune classify reviews.csv --model run --out sentiment
        # a row: {"text": "The parcel never arrived.", "label": "complaint"}
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (RowSchema(("text",), ("label",)),)
