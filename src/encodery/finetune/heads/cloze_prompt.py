"""A text put into a sentence with one gap: "{text} It is {mask}." to ids, cut by the reader's policy, never the prompt.

Shapes: n tokens of a sequence.
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


@dataclass(frozen=True)
class ClozePrompt:
    """What stands between the fields, in order: `literals[i]` is before `fields[i]`, the last one behind them all."""

    literals: tuple[str, ...]
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, pattern: str, inputs: Sequence[str]) -> ClozePrompt:
        """Of a pattern that has {mask} and each of the inputs once. Raises `SettingsError`."""
        try:
            parts = [(literal, field) for literal, field, _, _ in string.Formatter().parse(pattern)]
        except ValueError as error:
            raise SettingsError(f"pattern '{pattern}': {error}; a brace of a text is written twice.") from error
        fields = [field for _, field in parts if field is not None]
        wanted = (*inputs, MASK)
        for name in fields:
            if name not in wanted:
                named = ", ".join(f"{{{one}}}" for one in wanted)
                raise SettingsError(f"pattern '{pattern}': {{{name}}} is none of {named}.{nearest(name, wanted)}")
        for name in wanted:
            if fields.count(name) != 1:
                raise SettingsError(f"pattern '{pattern}': has {{{name}}} {fields.count(name)} times, not once.")
        # Two literals in a row are one, cut by a doubled brace.
        literals = [""]
        for literal, field in parts:
            literals[-1] += literal
            if field is not None:
                literals.append("")
        return cls(tuple(literals), tuple(fields))

    @property
    def space_before_gap(self) -> bool:
        """Whether the word in the gap has a space before it."""
        before = self.literals[self.fields.index(MASK)]
        return before[-1:].isspace()

    def fill(
        self, texts: Mapping[str, Sequence[str]], reader: Preprocessor
    ) -> tuple[list[list[tuple[InputSequence, int]]], list[int]]:
        """For each row its sequences and where the gap of each stands, and how many tokens of the row were dropped.

        Under "chunk" the last text is dealt to windows. Raises `InputError` naming a row that is too long under
        "error", and where the prompt leaves no room for texts.
        """
        literals = [
            ids.astype(np.int64) for ids in reader.tokenizer.encode_batch([one.rstrip() for one in self.literals])
        ]
        room = reader.text_budget - sum(map(len, literals)) - 1
        if room < min(MIN_SECOND_TOKENS, reader.text_budget // 4):
            raise InputError(
                f"The prompt alone has {reader.text_budget - room} tokens, which leaves {max(room, 0)} of {reader.max_length} "
                "for a text. Choose a shorter one, or a greater max_length."
            )
        names = [field for field in self.fields if field != MASK]
        encoded = [[ids.astype(np.int64) for ids in reader.tokenizer.encode_batch(list(texts[name]))] for name in names]
        found, dropped = [], []
        for row, some in enumerate(zip(*encoded, strict=True)):
            kept, lost = _fit(row, list(some), room, reader)
            dropped.append(lost)
            found.append([self._filled(dict(zip(names, one, strict=True)), literals, reader) for one in kept])
        return found, dropped

    def _filled(
        self, texts: Mapping[str, np.ndarray], literals: Sequence[np.ndarray], reader: Preprocessor
    ) -> tuple[InputSequence, int]:
        parts, gap = [literals[0]], 0
        for field, literal in zip(self.fields, literals[1:], strict=True):
            if field == MASK:
                gap = sum(map(len, parts))
            parts += [np.array([reader.tokenizer.mask_id]) if field == MASK else texts[field], literal]
        return reader.single(np.concatenate(parts)), gap + 1


def word_ids(words: Sequence[str], space_before: bool, tokenizer: Tokenizer) -> list[int]:
    """The pieces of some words, each as it stands in the gap. Raises `SettingsError` for one that is not in the
    vocabulary."""
    found: list[int] = []
    for word in words:
        ids = tokenizer.encode(f" {word}" if space_before else word).tolist()
        if not ids or tokenizer.unk_id in ids:
            raise SettingsError(f"'{word}' cannot be said with this vocabulary: choose another word for its label.")
        found += ids
    return found


def escape_braces(text: str) -> str:
    """A text as it is written inside a pattern."""
    return text.replace("{", "{{").replace("}", "}}")


def _fit(row: int, texts: list[np.ndarray], room: int, reader: Preprocessor) -> tuple[list[list[np.ndarray]], int]:
    """The texts of a row cut to so many tokens together, several times under "chunk", and how many are gone."""
    total = sum(map(len, texts))
    if total <= room:
        return [texts], 0
    if reader.truncate == "chunk":
        *firsts, last = texts
        left = room - sum(map(len, firsts))
        if left < min(MIN_SECOND_TOKENS, room):
            raise InputError(
                f"Row {row}: its first text has {sum(map(len, firsts))} tokens, which leaves {max(left, 0)} for the "
                "second. Choose truncate = right or left, or a greater max_length."
            )
        return [[*firsts, part] for part in np.array_split(last, -(-len(last) // left))], 0
    reader.check_fits(row, total, room)
    keep = truncated_lengths(len(texts[0]), len(texts[1]), room) if len(texts) == 2 else (room,)
    cut = [
        text[len(text) - n :] if reader.truncate == "left" else text[:n] for text, n in zip(texts, keep, strict=True)
    ]
    return [cut], total - room
