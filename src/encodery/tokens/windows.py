"""Token windows of a text, by one policy for texts that are too long, and batches of windows by a budget of tokens.

Every token that is dropped is counted. Shapes: n tokens of a text, N texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from encodery.base.errors import InputError, nearest

Truncate = Literal["error", "right", "left", "chunk"]
"""What happens to a text that is too long for the model: it is refused; its end, or its beginning, is dropped; or it is
divided into windows whose embeddings are averaged, weighted by length."""


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """A run of one text's tokens `ids` (n,), without special tokens; `text` is the index of the text."""

    text: int
    ids: np.ndarray


def parse_truncate(truncate: str) -> Truncate:
    """Return the policy of that name. Raises `InputError` with the nearest name."""
    for known in get_args(Truncate):
        if truncate == known:
            return known  # type: ignore[no-any-return]
    known_names = get_args(Truncate)
    raise InputError(
        f"truncate = '{truncate}': must be one of {', '.join(known_names)}.{nearest(truncate, known_names)}"
    )


def split_into_windows(
    texts: Sequence[np.ndarray], max_length: int, truncate: Truncate, first_index: int = 0
) -> tuple[list[TokenWindow], np.ndarray]:
    """Return windows of at most `max_length` tokens, and the number of tokens dropped from each text (N,) int64.

    An empty text has one empty window. `first_index` is the index of the first text, for messages. Raises `InputError`
    that names the first text which is too long under `truncate` = "error".
    """
    windows: list[TokenWindow] = []
    dropped = np.zeros(len(texts), np.int64)
    for number, ids in enumerate(texts):
        if len(ids) <= max_length:
            windows.append(TokenWindow(number, ids))
        elif truncate == "chunk":
            windows += [TokenWindow(number, part) for part in split_evenly(ids, -(-len(ids) // max_length))]
        elif truncate == "error":
            raise InputError(
                f"Text {first_index + number} has {len(ids)} tokens, the model takes {max_length} and special ones. "
                "Choose truncate = right, left or chunk."
            )
        else:
            windows.append(TokenWindow(number, ids[:max_length] if truncate == "right" else ids[-max_length:]))
            dropped[number] = len(ids) - max_length
    return windows, dropped


def split_evenly(ids: np.ndarray, count: int) -> list[np.ndarray]:
    """Return a text's tokens (n,) as `count` windows of about equal length."""
    return [ids] if count == 1 else np.array_split(ids, count)


def batches_by_length(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Yield the indices of the sequences of each batch: longest first, similar lengths together, at most `max_tokens`
    tokens.

    A sequence longer than `max_tokens` is a batch by itself.
    """
    order = np.argsort(-lengths, kind="stable")
    start, filled = 0, 0
    for index, number in enumerate(order):
        if index > start and filled + lengths[number] > max_tokens:
            yield order[start:index]
            start, filled = index, 0
        filled += int(lengths[number])
    if start < len(order):
        yield order[start:]
