"""A class for a pair of texts, read as one sequence: entailment, paraphrase, same or other. arXiv:1810.04805

Equals `classify` but for what it reads, and that the head also gets how the words of the two match (`_matching.py`);
segments tell the texts apart where the model has them. `matching = false` is BERT's own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encodery.finetune.tasks import Form
from encodery.finetune.tasks._classes import Classes


@dataclass(frozen=True, kw_only=True)
class Pair(Classes):
    """One of the labels that stand in the training rows."""

    forms: ClassVar[tuple[Form, ...]] = (Form(("text", "text_b"), ("label",)),)
