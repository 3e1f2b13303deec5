"""A class for a text by filling the gap of a sentence about it, for few labelled rows. arXiv:2001.07676 (PET)

"{text} It is {mask}." has the words of the labels as answers, said by the head that pre-training made: nothing begins
at random, so that ten rows say much. Differs from `classify` in that; and from PET in that one model learns all
patterns and its answers are averaged, where PET trains a model for each and distils them by means of unlabelled texts:
that is `finetune/generations.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from encodery.base.errors import InputError, SettingsError, nearest
from encodery.finetune.heads.labels import count_labels, label_names
from encodery.finetune.heads.verbalizer import VerbalizerTask
from encodery.finetune.tasks import Rows
from encodery.tokens.tokenizer import Tokenizer

TEXT_PATTERNS = ("{text} It is {mask}.", "{mask}: {text}")
PAIR_PATTERNS = ("{text}? {mask}, {text_b}", "{text} {mask} {text_b}")


@dataclass(frozen=True, kw_only=True)
class ClozeClassification(VerbalizerTask):
    """`patterns`: sentences with {text}, for pairs also {text_b}, and {mask}; absent: two that suit most labels.
    `words`: label -> the word that says it, or several, separated by commas (absent: the label itself)."""

    patterns: tuple[str, ...] = ()
    verbalizer: dict[str, str] = field(default_factory=dict)

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        """See `Task`. A label that has a word is known, even where no row has it."""
        labels, _ = count_labels([*label_names(rows["label"]), *self.verbalizer])
        if len(labels) < 2:
            what = f"all rows have the label '{labels[0]}'" if labels else "there are no rows"
            raise InputError(f"There is nothing to tell apart: {what}.")
        return {"labels": labels}

    def prompt_patterns(self, labels: Sequence[str], inputs: Sequence[str], tokenizer: Tokenizer) -> Sequence[str]:
        return self.patterns or (PAIR_PATTERNS if "text_b" in inputs else TEXT_PATTERNS)

    def label_words(self, labels: Sequence[str], tokenizer: Tokenizer) -> Mapping[str, Sequence[str]]:
        found = {label: [label.replace("_", " ")] for label in labels}
        for label, words in self.verbalizer.items():
            found[label] = [word.strip() for word in words.split(",") if word.strip()]
            if not found[label]:
                raise SettingsError(f"words.{label} = '{words}': has no word.{nearest(label, labels)}")
        return found
