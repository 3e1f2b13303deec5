"""Texts and pairs of texts to the sequences a model takes, by one policy for what is too long; what is cut is counted.

error: refused, naming the row; right, left: the end, or the beginning, is dropped (of a pair, first from the longer
text); chunk: windows, of a pair over the second text, each behind the whole first one.
Shapes: n tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encodery.base.errors import InputError
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import Truncate

MIN_SECOND_TOKENS = 16  # Tokens of the second text that a window of a pair must hold at least.


@dataclass(frozen=True, eq=False)
class InputSequence:
    """A sequence with its special tokens: `ids` (n,); `second`: where the second text begins, n where there is none.

    Its last text stands at `place` … `place + stop - start` and is tokens `start` … `stop` of that text; `between`
    separators stand before it where it is the second.
    """

    ids: np.ndarray
    second_start: int
    text_start: int
    start: int
    stop: int
    num_separators: int = 0


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """`longest`: of a sequence with its special tokens; `segmented`: whether the model tells the texts of a pair apart
    by segments."""

    tokenizer: Tokenizer
    max_length: int
    uses_segments: bool
    truncate: Truncate

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise InputError(f"max_length = {self.max_length}: must be at least 8 tokens.")

    @property
    def text_budget(self) -> int:
        """Tokens of a text alone."""
        return self.max_length - 2

    @property
    def pair_budget(self) -> int:
        """Tokens of the two texts of a pair together."""
        return self.max_length - 2 - self._between

    @property
    def _between(self) -> int:
        """Separators between the texts of a pair: two where the tokenizer's own template has two."""
        return 2 if self.tokenizer.backend.num_special_tokens_to_add(is_pair=True) == 4 else 1

    def single(self, ids: np.ndarray, start: int = 0, stop: int | None = None) -> InputSequence:
        """Tokens `start` … `stop` of a text."""
        stop = len(ids) if stop is None else stop
        whole = np.concatenate([[self.tokenizer.cls_id], ids[start:stop], [self.tokenizer.sep_id]])
        return InputSequence(whole, len(whole), 1, start, stop)

    def pair(self, first: np.ndarray, second: np.ndarray, start: int = 0, stop: int | None = None) -> InputSequence:
        """A first text, and tokens `start` … `stop` of a second one."""
        stop = len(second) if stop is None else stop
        sep = self.tokenizer.sep_id
        head = [[self.tokenizer.cls_id], first, [sep] * self._between]
        at = len(first) + 1 + self._between
        return InputSequence(np.concatenate([*head, second[start:stop], [sep]]), at, at, start, stop, self._between)

    def encode_texts(self, texts: Sequence[str]) -> tuple[list[list[InputSequence]], list[int]]:
        """The sequences of each text, several under "chunk", and how many tokens of it were dropped."""
        found, dropped = [], []
        for row, ids in enumerate(self._encoded(texts)):
            over = max(len(ids) - self.text_budget, 0)
            dropped.append(0 if self.truncate == "chunk" else over)
            if not over:
                found.append([self.single(ids)])
            elif self.truncate == "chunk":
                parts = np.array_split(np.arange(len(ids)), -(-len(ids) // self.text_budget))
                found.append([self.single(ids, int(part[0]), int(part[-1]) + 1) for part in parts])
            else:
                self.check_fits(row, len(ids), self.text_budget)
                found.append(
                    [self.single(ids, over) if self.truncate == "left" else self.single(ids, 0, self.text_budget)]
                )
        return found, dropped

    def encode_pairs(
        self, firsts: Sequence[str], seconds: Sequence[str]
    ) -> tuple[list[list[InputSequence]], list[int]]:
        """The same of pairs."""
        found, dropped = [], []
        for row, (a, b) in enumerate(zip(self._encoded(firsts), self._encoded(seconds), strict=True)):
            over = max(len(a) + len(b) - self.pair_budget, 0)
            dropped.append(0 if self.truncate == "chunk" else over)
            if not over:
                found.append([self.pair(a, b)])
            elif self.truncate == "chunk":
                room = self.second_text_budget(row, a)
                parts = np.array_split(np.arange(len(b)), -(-len(b) // room))
                found.append([self.pair(a, b, int(part[0]), int(part[-1]) + 1) for part in parts])
            else:
                self.check_fits(row, len(a) + len(b), self.pair_budget)
                keep = truncated_lengths(len(a), len(b), self.pair_budget)
                left = self.truncate == "left"
                a = a[len(a) - keep[0] :] if left else a[: keep[0]]
                found.append([self.pair(a, b, len(b) - keep[1]) if left else self.pair(a, b, 0, keep[1])])
        return found, dropped

    def second_text_budget(self, row: int, first: np.ndarray) -> int:
        """Tokens of a second text behind this first one. Raises `InputError` where there is too little room."""
        room = self.pair_budget - len(first)
        if room < MIN_SECOND_TOKENS:
            raise InputError(
                f"Row {row}: its first text has {len(first)} tokens, which leaves {max(room, 0)} of {self.max_length} for "
                f"the second. Choose truncate = right or left, or a greater max_length."
            )
        return room

    def check_fits(self, row: int, tokens: int, room: int) -> None:
        """Raises `InputError` under "error"."""
        if self.truncate == "error":
            raise InputError(
                f"Row {row} has {tokens} tokens, the model takes {room} (and its special tokens). "
                "Choose truncate = right, left or chunk."
            )

    def _encoded(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [ids.astype(np.int64) for ids in self.tokenizer.encode_batch(list(texts))]


def overlapping_windows(num_tokens: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Overlapping windows [start, stop) of at most `room` over so many tokens, neighbours sharing at least `overlap`
    (less where `room` allows no more); at least one, which may be empty."""
    if num_tokens <= size:
        return [(0, num_tokens)]
    step = max(size - min(overlap, size // 2), 1)
    count = -(-(num_tokens - size) // step) + 1
    starts = np.linspace(0, num_tokens - size, count).round().astype(int)
    return [(int(start), int(start) + size) for start in starts]


def most_central_window(num_tokens: int, windows: Sequence[tuple[int, int]]) -> np.ndarray:
    """(tokens,) the window in which each token stands farthest from an edge; the ends of the text are no edges."""
    at = np.arange(num_tokens)
    far = np.full((len(windows), num_tokens), -1.0)
    for number, (start, stop) in enumerate(windows):
        left = at - start + (np.inf if start == 0 else 0)
        right = stop - 1 - at + (np.inf if stop == num_tokens else 0)
        far[number] = np.where((at >= start) & (at < stop), np.minimum(left, right), -1)
    best: np.ndarray = far.argmax(0) if num_tokens else np.zeros(0, np.int64)
    return best


def truncated_lengths(first: int, second: int, budget: int) -> tuple[int, int]:
    """How much of each text of a pair stays, cut from the longer one first."""
    half = budget // 2
    if first <= half:
        return first, budget - first
    if second <= budget - half:
        return budget - second, second
    return half, budget - half
