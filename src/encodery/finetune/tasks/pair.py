"""A class for a pair of texts, read as one sequence: entailment, paraphrase, same or other. arXiv:1810.04805

Equals `classify` but for what it reads, and that the head also gets how the words of the two match (`_matching.py`);
segments tell the texts apart where the model has them. `matching = false` is BERT's own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encodery.finetune.heads.classification import ClassificationTask
from encodery.finetune.tasks import RowSchema


@dataclass(frozen=True, kw_only=True)
class PairClassification(ClassificationTask):
    """One of the labels that stand in the training rows."""

    schemas: ClassVar[tuple[RowSchema, ...]] = (RowSchema(("text", "text_b"), ("label",)),)
