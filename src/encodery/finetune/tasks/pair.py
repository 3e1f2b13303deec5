"""A class for a pair of texts, read as one sequence: entailment, paraphrase, same or other. arXiv:1810.04805

Equals `classify` but for what it reads; segments tell the texts apart where the model has them.
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
