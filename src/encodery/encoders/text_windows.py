"""Texts as windows of token ids, and the vectors of windows averaged to those of texts; without PyTorch.

Shapes: N texts, W windows, H width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from encodery.base.errors import InputError
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import parse_truncate, split_into_windows

MAX_PART_CHARACTERS = 1 << 17  # Characters whose offsets are computed in one piece.


@dataclass(frozen=True, eq=False)
class TextWindows:
    """The windows of N texts. `ids`: the tokens of each window without special tokens; `owner` (W,): the text of each
    window; `lengths` (W,): its tokens, special tokens included; `dropped` (N,): tokens that the truncation left out."""

    ids: list[np.ndarray]
    owner: np.ndarray
    lengths: np.ndarray
    dropped: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> np.ndarray:
        """(N,) int64 tokens read of each text, special tokens of all its windows included."""
        counts = np.bincount(self.owner, weights=self.lengths, minlength=len(self.dropped))
        return counts.astype(np.int64)

    @classmethod
    def from_ids(
        cls, sequences: Sequence[np.ndarray], max_content_tokens: int, truncate: str, first_index: int = 0
    ) -> TextWindows:
        """Windows of token ids without special tokens; `first_index` is the number of the first text, for messages.

        Raises `InputError` for a text that is too long where `truncate` is "error".
        """
        windows, dropped = split_into_windows(sequences, max_content_tokens, parse_truncate(truncate), first_index)
        owner = np.array([window.text for window in windows], np.int64)
        lengths = np.array([len(window.ids) + 2 for window in windows], np.int64)
        return cls([window.ids for window in windows], owner, lengths, dropped)

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        tokenizer: Tokenizer,
        max_content_tokens: int,
        truncate: str,
        prompt: str = "",
        first_index: int = 0,
    ) -> TextWindows:
        """Windows of texts, each read with `prompt` before it. Raises `InputError` for what is not a list of texts."""
        check_texts(texts, first_index)
        sequences = tokenizer.encode_batch([prompt + text for text in texts] if prompt else list(texts))
        return cls.from_ids(sequences, max_content_tokens, truncate, first_index)

    def average(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors of windows (W, H) to vectors of texts (N, H), weighted by the windows' lengths."""
        count = len(self.dropped)
        if len(self.owner) == count:
            return vectors
        weights = self.lengths.astype(np.float64) / self.tokens[self.owner]
        averages = np.zeros((count, vectors.shape[1]))
        np.add.at(averages, self.owner, vectors * weights[:, None])
        return averages.astype(np.float32)


def check_texts(texts: Sequence[str], first_index: int = 0) -> None:
    """Raises `InputError` for what is not a list of texts."""
    if isinstance(texts, str | bytes):
        raise InputError("encode takes a list of texts, and got a single text: write encode([text]).")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"Text {first_index + index} is of type {type(text).__name__}; a str is needed.")


def token_offsets(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The characters [begin, end) (n, 2) int64 of each token of a text, without special tokens."""
    return np.concatenate([np.zeros((0, 2), np.int64), *_offsets_of_parts(tokenizer, text)])


def _offsets_of_parts(tokenizer: Tokenizer, text: str) -> Iterator[np.ndarray]:
    begin = 0
    while begin < len(text):
        end = len(text)
        if end - begin > MAX_PART_CHARACTERS:
            space = text.rfind(" ", begin, begin + MAX_PART_CHARACTERS)
            end = space if space > begin else begin + MAX_PART_CHARACTERS
        yield tokenizer.encode_with_offsets(text[begin:end])[1].astype(np.int64) + begin
        begin = end
