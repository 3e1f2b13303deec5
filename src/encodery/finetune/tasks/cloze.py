"""A class for a text by filling the gap of a sentence about it, for few labelled rows. arXiv:2001.07676 (PET)

The words of the labels fill "{text} It is {mask}.", and the head that pre-training has trained scores them: no weights
are initialised at random, so ten rows can be enough. Differs from `classify` in that. Differs from PET: one model
learns all patterns and its predictions are averaged, where PET trains a model for each and distils them on unlabelled
texts; that is `finetune/generations.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from encodery.base.errors import SettingsError, nearest
from encodery.finetune.heads.classification import check_several
from encodery.finetune.heads.labels import count_labels, label_names
from encodery.finetune.heads.verbalizer import VerbalizerTask
from encodery.finetune.task_types import Rows, TaskMetadata
from encodery.tokens.tokenizer import Tokenizer

TEXT_PATTERNS = ("{text} It is {mask}.", "{mask}: {text}")
PAIR_PATTERNS = ("{text}? {mask}, {text_b}", "{text} {mask} {text_b}")


@dataclass(frozen=True, kw_only=True)
class ClozeClassification(VerbalizerTask):
    """Predict a label by the word that fills a gap.

    `patterns`: sentences with {text}, for pairs also {text_b}, and {mask} (absent: two that suit most labels).
    `verbalizer`: label → its word, or several separated by commas (absent: the label itself).
    Use it with 10 to 100 labelled rows and labels that are ordinary words:

        encodery finetune cloze few.csv --model run --out mood task.verbalizer.1=good task.verbalizer.0=bad
        # a row: {"text": "The soup was cold.", "label": 0}
    """

    patterns: tuple[str, ...] = ()
    verbalizer: dict[str, str] = field(default_factory=dict)

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        """See `Task`. A label in `verbalizer` is known, even if no row has it."""
        labels, _ = count_labels([*label_names(rows["label"]), *self.verbalizer])
        check_several(labels)
        return TaskMetadata(labels=tuple(labels))

    def prompt_patterns(self, labels: Sequence[str], inputs: Sequence[str], tokenizer: Tokenizer) -> Sequence[str]:
        return self.patterns or (PAIR_PATTERNS if "text_b" in inputs else TEXT_PATTERNS)

    def label_words(self, labels: Sequence[str], tokenizer: Tokenizer) -> Mapping[str, Sequence[str]]:
        words_of = {label: [label.replace("_", " ")] for label in labels}
        for label, text in self.verbalizer.items():
            words_of[label] = [word.strip() for word in text.split(",") if word.strip()]
            if not words_of[label]:
                raise SettingsError(f"verbalizer.{label} = '{text}': has no word.{nearest(label, labels)}")
        return words_of
