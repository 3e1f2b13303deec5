"""Texts and pairs of texts to the input sequences of a model, under one policy for what is too long.

error: refused, naming the row. right, left: the end or the beginning is dropped, and counted; of a pair, the longer
text is shortened first. chunk: windows; of a pair, over the second text, each after the whole first one.
Shapes: n tokens of a sequence, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encodery.base.errors import InputError
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import Truncate

MIN_SECOND_TOKENS = 16
"""Tokens of the second text that a window of a pair must have room for."""
MIN_LENGTH = 8


@dataclass(frozen=True, eq=False)
class InputSequence:
    """A sequence with its special tokens: `ids` (n,). `second_start`: index of the second text, n without one.

    Its last text is at `text_start` … `text_start + stop - start` and consists of tokens `start` … `stop` of the whole
    text. `num_separators`: separators between the two texts.
    """

    ids: np.ndarray
    second_start: int
    text_start: int
    start: int
    stop: int
    num_separators: int = 0


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Makes input sequences of at most `max_length` tokens, special tokens included.

    `uses_segments`: whether the model distinguishes the two texts of a pair by segment ids.
    Raises `InputError` for a `max_length` below 8.
    """

    tokenizer: Tokenizer
    max_length: int
    uses_segments: bool
    truncate: Truncate

    def __post_init__(self) -> None:
        if self.max_length < MIN_LENGTH:
            raise InputError(f"max_length = {self.max_length}: must be at least {MIN_LENGTH} tokens.")

    @property
    def text_budget(self) -> int:
        """Number of tokens of a single text that fit, special tokens not counted."""
        return self.max_length - 2

    @property
    def pair_budget(self) -> int:
        """Number of tokens of both texts of a pair that fit, special tokens not counted."""
        return self.max_length - 2 - self._num_separators

    @property
    def _num_separators(self) -> int:
        """Separators between the texts of a pair: two if the tokenizer's own template has two."""
        return 2 if self.tokenizer.backend.num_special_tokens_to_add(is_pair=True) == 4 else 1

    def single(self, ids: np.ndarray, start: int = 0, stop: int | None = None) -> InputSequence:
        """Return the sequence of tokens `start` … `stop` of a text."""
        stop = len(ids) if stop is None else stop
        whole = np.concatenate([[self.tokenizer.cls_id], ids[start:stop], [self.tokenizer.sep_id]])
        return InputSequence(whole, len(whole), 1, start, stop)

    def pair(self, first: np.ndarray, second: np.ndarray, start: int = 0, stop: int | None = None) -> InputSequence:
        """Return the sequence of a first text and tokens `start` … `stop` of a second one."""
        stop = len(second) if stop is None else stop
        sep, separators = self.tokenizer.sep_id, self._num_separators
        ids = np.concatenate([[self.tokenizer.cls_id], first, [sep] * separators, second[start:stop], [sep]])
        second_start = len(first) + 1 + separators
        return InputSequence(ids, second_start, second_start, start, stop, separators)

    def encode_texts(self, texts: Sequence[str]) -> tuple[list[list[InputSequence]], list[int]]:
        """Return the sequences of each text (R), several under "chunk", and how many of its tokens were dropped (R).

        Raises `InputError` naming the first row that is too long under "error".
        """
        sequences, dropped = [], []
        for row, ids in enumerate(self._encoded(texts)):
            excess = max(len(ids) - self.text_budget, 0)
            dropped.append(0 if self.truncate == "chunk" else excess)
            if not excess:
                sequences.append([self.single(ids)])
            elif self.truncate == "chunk":
                parts = np.array_split(np.arange(len(ids)), -(-len(ids) // self.text_budget))
                sequences.append([self.single(ids, int(part[0]), int(part[-1]) + 1) for part in parts])
            else:
                self.check_fits(row, len(ids), self.text_budget)
                left = self.truncate == "left"
                sequences.append([self.single(ids, excess) if left else self.single(ids, 0, self.text_budget)])
        return sequences, dropped

    def encode_pairs(
        self, firsts: Sequence[str], seconds: Sequence[str]
    ) -> tuple[list[list[InputSequence]], list[int]]:
        """Return the same for pairs of texts. Raises as `encode_texts`, and as `second_text_budget` under "chunk"."""
        sequences, dropped = [], []
        for row, (a, b) in enumerate(zip(self._encoded(firsts), self._encoded(seconds), strict=True)):
            excess = max(len(a) + len(b) - self.pair_budget, 0)
            dropped.append(0 if self.truncate == "chunk" else excess)
            if not excess:
                sequences.append([self.pair(a, b)])
            elif self.truncate == "chunk":
                budget = self.second_text_budget(row, a)
                parts = np.array_split(np.arange(len(b)), -(-len(b) // budget))
                sequences.append([self.pair(a, b, int(part[0]), int(part[-1]) + 1) for part in parts])
            else:
                self.check_fits(row, len(a) + len(b), self.pair_budget)
                keep = truncated_lengths(len(a), len(b), self.pair_budget)
                left = self.truncate == "left"
                a = a[len(a) - keep[0] :] if left else a[: keep[0]]
                sequences.append([self.pair(a, b, len(b) - keep[1]) if left else self.pair(a, b, 0, keep[1])])
        return sequences, dropped

    def second_text_budget(self, row: int, first: np.ndarray) -> int:
        """Return how many tokens of a second text fit after this first one. Raises `InputError` if they are too few."""
        budget = self.pair_budget - len(first)
        if budget < MIN_SECOND_TOKENS:
            raise InputError(
                f"Row {row}: its first text has {len(first)} tokens, which leaves {max(budget, 0)} of "
                f"{self.max_length} for the second. Choose truncate = right or left, or a greater max_length."
            )
        return budget

    def check_fits(self, row: int, num_tokens: int, budget: int) -> None:
        """Raise `InputError` for a text that is too long, if the policy is "error"."""
        if self.truncate == "error":
            raise InputError(
                f"Row {row} has {num_tokens} tokens; the model takes {budget} beside its special tokens. "
                "Choose truncate = right, left or chunk."
            )

    def _encoded(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [ids.astype(np.int64) for ids in self.tokenizer.encode_batch(list(texts))]


def truncated_lengths(first: int, second: int, budget: int) -> tuple[int, int]:
    """Return how many tokens of each text of a pair are kept; the longer text is shortened first."""
    half = budget // 2
    if first <= half:
        return first, budget - first
    if second <= budget - half:
        return budget - second, second
    return half, budget - half
