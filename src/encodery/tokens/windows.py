"""Token windows of a text, by one policy for what is too long, and batches of windows by a budget of tokens.

Nothing is dropped without being counted. Shapes: n tokens of a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from encodery.base.errors import InputError, nearest

Truncate = Literal["error", "right", "left", "chunk"]
"""What happens to a text longer than the model takes: refused; its end, or its beginning, is dropped; or it is cut
into windows whose vectors are averaged by their lengths."""


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """A run of one text's tokens `ids` (n,), without special tokens; `text` is the text's number."""

    text: int
    ids: np.ndarray


def parse_truncate(truncate: str) -> Truncate:
    """The policy of that name. Raises `InputError` with the nearest."""
    for known in get_args(Truncate):
        if truncate == known:
            return known  # type: ignore[no-any-return]
    known_names = get_args(Truncate)
    raise InputError(f"truncate = '{truncate}': is one of {', '.join(known_names)}.{nearest(truncate, known_names)}")


def split_into_windows(
    texts: Sequence[np.ndarray], max_length: int, truncate: Truncate, first_index: int = 0
) -> tuple[list[TokenWindow], np.ndarray]:
    """Windows of at most `longest` tokens, and how many tokens of each text were dropped (N,) int64.

    An empty text has one empty window. `first` is the number of the first text, for messages.
    Raises `InputError` naming the first text that is too long under `truncate` = "error".
    """
    found: list[TokenWindow] = []
    dropped = np.zeros(len(texts), np.int64)
    for number, ids in enumerate(texts):
        if len(ids) <= max_length:
            found.append(TokenWindow(number, ids))
        elif truncate == "chunk":
            found += [TokenWindow(number, part) for part in split_evenly(ids, -(-len(ids) // max_length))]
        elif truncate == "error":
            raise InputError(
                f"Text {first_index + number} has {len(ids)} tokens, the model takes {max_length} (and its special tokens). "
                "Choose truncate = right, left or chunk."
            )
        else:
            found.append(TokenWindow(number, ids[:max_length] if truncate == "right" else ids[-max_length:]))
            dropped[number] = len(ids) - max_length
    return found, dropped


def split_evenly(ids: np.ndarray, count: int) -> list[np.ndarray]:
    """A text's tokens (n,) as so many windows of about equal length."""
    return [ids] if count == 1 else np.array_split(ids, count)


def batches_by_length(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Numbers of the sequences of each batch: longest first, neighbours of like length, at most `budget` tokens.

    A sequence longer than the budget has a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start, filled = 0, 0
    for place, number in enumerate(order):
        if place > start and filled + lengths[number] > max_tokens:
            yield order[start:place]
            start, filled = place, 0
        filled += int(lengths[number])
    if start < len(order):
        yield order[start:]
