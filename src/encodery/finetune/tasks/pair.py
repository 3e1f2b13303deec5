"""A class for a pair of texts, read as one sequence: entailment, paraphrase, duplicate. arXiv:1810.04805

Equals `classify` except for its inputs, and that the head also reads how well the tokens of the two texts match
(`heads/token_matching.py`); segment ids tell the texts apart if the model has them. `token_matching = false` is BERT's
way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encodery.finetune.heads.classification import ClassificationTask
from encodery.finetune.task_types import RowSchema


@dataclass(frozen=True, kw_only=True)
class PairClassification(ClassificationTask):
    """Predict one of the labels of the training rows for a pair of texts.

    Use it when the label describes how two texts relate:

        encodery finetune pair nli.csv --model run --out entailment
        # a row: {"text": "A man plays a flute.", "text_b": "A man makes music.", "label": "entailment"}
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (RowSchema(("text", "text_b"), ("label",)),)
