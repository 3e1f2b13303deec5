"""Windows over the tokens of a long text, for tasks that judge every token.

Shapes: n tokens of a text, W windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encodery.finetune.preprocess import Preprocessor

Window = tuple[int, int]
"""First token of a window and the token after its last one."""


def text_windows(row: int, num_tokens: int, size: int, overlap: int, preprocessor: Preprocessor) -> list[Window]:
    """Return the windows of at most `size` tokens in which a text is read under the preprocessor's policy.

    Under "chunk" neighbours share `overlap` tokens; under "right" and "left" there is one window, and the rest of the
    text is dropped. Raises `InputError` naming the row if the text does not fit under "error".
    """
    if preprocessor.truncate == "chunk":
        return overlapping_windows(num_tokens, size, overlap)
    if num_tokens <= size:
        return [(0, num_tokens)]
    preprocessor.check_fits(row, num_tokens, size)
    return [(num_tokens - size, num_tokens)] if preprocessor.truncate == "left" else [(0, size)]


def dropped_tokens(num_tokens: int, windows: Sequence[Window]) -> int:
    """Return how many tokens of a text lie in none of its windows."""
    return num_tokens - windows[-1][1] + windows[0][0]


def overlapping_windows(num_tokens: int, size: int, overlap: int) -> list[Window]:
    """Return windows of at most `size` tokens that cover a text; at least one, which may be empty.

    Neighbours share at least `overlap` tokens, or half of `size` if that is less.
    """
    if num_tokens <= size:
        return [(0, num_tokens)]
    step = max(size - min(overlap, size // 2), 1)
    count = -(-(num_tokens - size) // step) + 1
    starts = np.linspace(0, num_tokens - size, count).round().astype(int)
    return [(int(start), int(start) + size) for start in starts]


def most_central_window(num_tokens: int, windows: Sequence[Window]) -> np.ndarray:
    """Return (n,) the window in which each token is farthest from an edge; the ends of the text are no edges."""
    index = np.arange(num_tokens)
    distance = np.full((len(windows), num_tokens), -1.0)
    for number, (start, stop) in enumerate(windows):
        left = index - start + (np.inf if start == 0 else 0)
        right = stop - 1 - index + (np.inf if stop == num_tokens else 0)
        distance[number] = np.where((index >= start) & (index < stop), np.minimum(left, right), -1)
    best: np.ndarray = distance.argmax(0) if num_tokens else np.zeros(0, np.int64)
    return best
