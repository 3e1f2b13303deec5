"""A class by answering a question with a letter: the options are part of the prompt. arXiv:2502.03793

The prompt "<question> A: ham. B: spam. Text: … Answer: {mask}" is answered by the masked-language-model head, among
the letters of the options. Differs from `cloze`: the model reads the names of the labels, so long names
and descriptions can be used, and each label takes one letter. Differs from the paper: the softmax is over the letters
of the options rather than over the whole vocabulary, and the model was not trained on other tasks in this form before.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from encodery.base.errors import SettingsError
from encodery.finetune.heads.cloze_prompt import escape_braces
from encodery.finetune.heads.labels import check_described
from encodery.finetune.heads.verbalizer import VerbalizerTask
from encodery.tokens.tokenizer import Tokenizer

OPTION_LETTERS = (*string.ascii_uppercase, *string.ascii_lowercase, *map(str, range(100)))


@dataclass(frozen=True, kw_only=True)
class InstructClassification(VerbalizerTask):
    """Predict a label by the letter of an option.

    `question`: the instruction at the start of the prompt. `label_descriptions`: label → its text among the options
    (absent: its name). Use it with few labelled rows and labels that need a description:

        encodery finetune instruct tickets.csv --model run --out router "task.question=Which team answers this?"
        # a row: {"text": "My card was charged twice.", "label": "billing"}
    """

    question: str = "Choose the right answer."
    label_descriptions: dict[str, str] = field(default_factory=dict)

    def prompt_patterns(self, labels: Sequence[str], inputs: Sequence[str], tokenizer: Tokenizer) -> Sequence[str]:
        check_described(self.label_descriptions, labels)
        options = " ".join(
            f"{letter}: {self.label_descriptions.get(label, label.replace('_', ' '))}."
            for letter, label in zip(_letters(len(labels), tokenizer), labels, strict=True)
        )
        texts = "Text: {text} Second text: {text_b}" if "text_b" in inputs else "Text: {text}"
        return [f"{escape_braces(self.question)} {escape_braces(options)} {texts} Answer: {{mask}}"]

    def label_words(self, labels: Sequence[str], tokenizer: Tokenizer) -> Mapping[str, Sequence[str]]:
        return {label: [letter] for label, letter in zip(labels, _letters(len(labels), tokenizer), strict=True)}


def _letters(count: int, tokenizer: Tokenizer) -> list[str]:
    """Return the first `count` letters and numbers that are single, distinct tokens.

    Raises `SettingsError` if the vocabulary has too few.
    """
    letter_of: dict[int, str] = {}
    for letter in OPTION_LETTERS:
        ids = tokenizer.encode(f" {letter}").tolist()
        if len(ids) == 1 and ids[0] != tokenizer.unk_id:
            letter_of.setdefault(ids[0], letter)
    if len(letter_of) < count:
        raise SettingsError(
            f"There are {count} labels, but only {len(letter_of)} letters and numbers are single tokens of this "
            "vocabulary: choose the task classify or label_match."
        )
    return list(letter_of.values())[:count]
