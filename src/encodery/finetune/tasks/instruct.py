"""A class by answering a question with a letter: the options stand in the prompt. arXiv:2502.03793

"Choose the right answer. A: ham. B: spam. Text: … Answer: {mask}" is answered by the head that pre-training made,
among the letters offered. Differs from `cloze`: the model reads what the labels are called, so that long names and
descriptions serve, and any label takes one letter. Differs from the paper: the softmax is over the letters offered
rather than over the whole vocabulary, and the model has not seen other tasks in this form before.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from encodery.base.errors import SettingsError, nearest
from encodery.finetune.heads.cloze_prompt import escape_braces
from encodery.finetune.heads.verbalizer import VerbalizerTask
from encodery.tokens.tokenizer import Tokenizer

OPTION_LETTERS = (*string.ascii_uppercase, *string.ascii_lowercase, *map(str, range(100)))


@dataclass(frozen=True, kw_only=True)
class InstructClassification(VerbalizerTask):
    """`question`: what is asked. `described`: label -> how it is called among the options (absent: its name)."""

    question: str = "Choose the right answer."
    label_descriptions: dict[str, str] = field(default_factory=dict)

    def prompt_patterns(self, labels: Sequence[str], inputs: Sequence[str], tokenizer: Tokenizer) -> Sequence[str]:
        for label in self.label_descriptions:
            if label not in labels:
                raise SettingsError(f"described.{label}: no row has this label.{nearest(label, labels)}")
        options = " ".join(
            f"{sign}: {self.label_descriptions.get(label, label.replace('_', ' '))}."
            for sign, label in zip(_signs(len(labels), tokenizer), labels, strict=True)
        )
        texts = "Text: {text} Second text: {text_b}" if "text_b" in inputs else "Text: {text}"
        return [f"{escape_braces(self.question)} {escape_braces(options)} {texts} Answer: {{mask}}"]

    def label_words(self, labels: Sequence[str], tokenizer: Tokenizer) -> Mapping[str, Sequence[str]]:
        return {label: [sign] for label, sign in zip(labels, _signs(len(labels), tokenizer), strict=True)}


def _signs(count: int, tokenizer: Tokenizer) -> list[str]:
    """The first so many letters and numbers that are one piece each, no two alike. Raises `SettingsError` where the
    vocabulary has too few."""
    found: dict[int, str] = {}
    for sign in OPTION_LETTERS:
        ids = tokenizer.encode(f" {sign}").tolist()
        if len(ids) == 1 and ids[0] != tokenizer.unk_id:
            found.setdefault(ids[0], sign)
    if len(found) < count:
        raise SettingsError(
            f"There are {count} labels, and {len(found)} letters and numbers that are one piece of this vocabulary: "
            "choose task.is = classify or label_match."
        )
    return list(found.values())[:count]
