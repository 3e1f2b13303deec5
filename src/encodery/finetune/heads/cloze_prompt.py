"""Prompts with one gap, such as "{text} It is {mask}.": filled with texts, tokenised, truncated outside the prompt.

Shapes: n tokens of a sequence, R rows.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from encodery.base.errors import InputError, SettingsError, nearest
from encodery.finetune.preprocess import MIN_SECOND_TOKENS, InputSequence, Preprocessor, truncated_lengths
from encodery.tokens.tokenizer import Tokenizer

MASK = "mask"
GAP = "gap"
"""Token mark: True for the [MASK] token of a filled prompt."""
FilledPrompt = tuple[InputSequence, int]
"""A sequence, and the index of its gap."""


@dataclass(frozen=True)
class ClozePrompt:
    """A parsed pattern: `literals[i]` precedes `fields[i]`; the last literal follows all fields."""

    literals: tuple[str, ...]
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, pattern: str, inputs: Sequence[str]) -> ClozePrompt:
        """Parse a pattern that has {mask} and each of the inputs once. Raises `SettingsError`."""
        try:
            parts = [(literal, field) for literal, field, _, _ in string.Formatter().parse(pattern)]
        except ValueError as error:
            raise SettingsError(f"pattern '{pattern}': {error}; write a brace of the text twice.") from error
        fields = [field for _, field in parts if field is not None]
        required = (*inputs, MASK)
        for name in fields:
            if name not in required:
                named = ", ".join(f"{{{one}}}" for one in required)
                raise SettingsError(f"pattern '{pattern}': {{{name}}} is not one of {named}.{nearest(name, required)}")
        for name in required:
            if fields.count(name) != 1:
                raise SettingsError(f"pattern '{pattern}': has {{{name}}} {fields.count(name)} times, not once.")
        literals = [""]
        for literal, field in parts:  # A doubled brace splits a literal, hence the concatenation.
            literals[-1] += literal
            if field is not None:
                literals.append("")
        return cls(tuple(literals), tuple(fields))

    @property
    def space_before_gap(self) -> bool:
        """Whether the word in the gap is preceded by a space."""
        return self.literals[self.fields.index(MASK)][-1:].isspace()

    def fill(
        self, texts: Mapping[str, Sequence[str]], preprocessor: Preprocessor
    ) -> tuple[list[list[FilledPrompt]], list[int]]:
        """Return the filled prompts of each row (R), and how many tokens of the row were dropped (R).

        Under "chunk" the last text is split into windows. Raises `InputError` naming a row that is too long under
        "error", and if the prompt leaves too little room for texts.
        """
        encode = preprocessor.tokenizer.encode_batch
        literals = [ids.astype(np.int64) for ids in encode([literal.rstrip() for literal in self.literals])]
        budget = preprocessor.text_budget - sum(map(len, literals)) - 1
        if budget < min(MIN_SECOND_TOKENS, preprocessor.text_budget // 4):
            raise InputError(
                f"The prompt alone has {preprocessor.text_budget - budget} tokens, which leaves {max(budget, 0)} of "
                f"{preprocessor.max_length} for a text. Choose a shorter prompt, or a greater max_length."
            )
        names = [field for field in self.fields if field != MASK]
        encoded = [[ids.astype(np.int64) for ids in encode(list(texts[name]))] for name in names]
        filled, dropped = [], []
        for row, own in enumerate(zip(*encoded, strict=True)):
            kept, excess = _truncate(row, list(own), budget, preprocessor)
            dropped.append(excess)
            filled.append([self._sequence(dict(zip(names, one, strict=True)), literals, preprocessor) for one in kept])
        return filled, dropped

    def _sequence(
        self, texts: Mapping[str, np.ndarray], literals: Sequence[np.ndarray], preprocessor: Preprocessor
    ) -> FilledPrompt:
        parts, gap = [literals[0]], 0
        for field, literal in zip(self.fields, literals[1:], strict=True):
            if field == MASK:
                gap = sum(map(len, parts))
            parts += [np.array([preprocessor.tokenizer.mask_id]) if field == MASK else texts[field], literal]
        return preprocessor.single(np.concatenate(parts)), gap + 1


def gap_marks(filled: Sequence[FilledPrompt]) -> dict[str, np.ndarray]:
    """Return the token mark `GAP` of an example of some filled prompts."""
    return {GAP: np.concatenate([np.arange(len(sequence.ids)) == gap for sequence, gap in filled])}


def word_ids(words: Sequence[str], space_before: bool, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of some words as they are written in the gap.

    Raises `SettingsError` for a word that is not in the vocabulary.
    """
    all_ids: list[int] = []
    for word in words:
        ids = tokenizer.encode(f" {word}" if space_before else word).tolist()
        if not ids or tokenizer.unk_id in ids:
            raise SettingsError(f"'{word}' cannot be written with this vocabulary: choose another word for its label.")
        all_ids += ids
    return all_ids


def escape_braces(text: str) -> str:
    """Return a text as it is written inside a pattern."""
    return text.replace("{", "{{").replace("}", "}}")


def _truncate(
    row: int, texts: list[np.ndarray], budget: int, preprocessor: Preprocessor
) -> tuple[list[list[np.ndarray]], int]:
    """Return the texts of a row shortened to `budget` tokens together, and the number of tokens dropped.

    Under "chunk" there are several such lists, one a window.
    """
    total = sum(map(len, texts))
    if total <= budget:
        return [texts], 0
    if preprocessor.truncate == "chunk":
        *firsts, last = texts
        left = budget - sum(map(len, firsts))
        if left < min(MIN_SECOND_TOKENS, budget):
            raise InputError(
                f"Row {row}: its first text has {sum(map(len, firsts))} tokens, which leaves {max(left, 0)} for the "
                "second. Choose truncate = right or left, or a greater max_length."
            )
        return [[*firsts, part] for part in np.array_split(last, -(-len(last) // left))], 0
    preprocessor.check_fits(row, total, budget)
    keep = truncated_lengths(len(texts[0]), len(texts[1]), budget) if len(texts) == 2 else (budget,)
    left_end = preprocessor.truncate == "left"
    kept = [text[len(text) - n :] if left_end else text[:n] for text, n in zip(texts, keep, strict=True)]
    return [kept], total - budget
