"""The texts of a training set, tokenised once, each kept once; examples are rows of numbers into them.

A text that the model cannot take at once may be kept whole all the same: it goes through it in windows that are
sequences of their own (`truncate` = "chunk"), whose vectors make that of the text as in use (`embedder.averaged`).
Shapes: P texts, E examples, C columns, B texts of a batch, W windows of theirs, K width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from encodery.encoders.packing import pack_sequences
from encodery.model.shape import Batch
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import parse_truncate, split_evenly, split_into_windows

TokenNoise = Callable[[int, np.ndarray], np.ndarray]
"""Place among the texts of a batch, tokens of the text → what the model shall see of it."""
AT_ONCE = 8192  # Texts tokenised at a time.


@dataclass(frozen=True, eq=False)
class TextPool:
    """`texts` (P) as they were written, without prompts; `ids`, tokens of all of them, text i ending at `ends[i]`;
    `windows` (P,): in how many each is read; `identity` (P,): equal for texts that differ by their prompt only;
    `dropped` tokens of `cut` texts were left out. `lengths` (P,): tokens of each, special ones of all windows too."""

    texts: list[str]
    ids: np.ndarray
    ends: np.ndarray
    text_ids: np.ndarray
    dropped: int
    num_truncated: int
    special_ids: tuple[int, int]
    num_windows: np.ndarray
    lengths: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", np.diff(self.ends, prepend=0) + 2 * self.num_windows)

    @classmethod
    def from_columns(
        cls,
        columns: Sequence[Sequence[str]],
        prompts: Sequence[str],
        tokenizer: Tokenizer,
        max_tokens: int,
        truncate: str,
    ) -> tuple[TextPool, np.ndarray]:
        """The pool of columns of texts, each read with its prompt before it, and the numbers (E, C) of the examples.

        A text longer than `longest` tokens is refused, cut, or read in windows (`tokens/windows.py`).
        """
        known: dict[tuple[str, str], int] = {}
        numbers = np.empty((len(columns[0]), len(columns)), np.int64)
        for place, (column, prompt) in enumerate(zip(columns, prompts, strict=True)):
            numbers[:, place] = [known.setdefault((prompt, text), len(known)) for text in column]
        texts = [text for _, text in known]
        plain: dict[str, int] = {}
        identity = np.array([plain.setdefault(text, len(plain)) for text in texts], np.int64)
        found, lengths, counts = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        dropped = cut = 0
        whole = [prompt + text for prompt, text in known]
        for first in range(0, len(whole), AT_ONCE):
            ids = tokenizer.encode_batch(whole[first : first + AT_ONCE])
            kept, lost = split_into_windows(ids, max_tokens, parse_truncate(truncate), first)
            found += [window.ids for window in kept]
            owner, sizes = [window.text for window in kept], [len(window.ids) for window in kept]
            counts.append(np.bincount(owner, minlength=len(ids)))
            lengths.append(np.bincount(owner, weights=sizes, minlength=len(ids)).astype(np.int64))
            dropped, cut = dropped + int(lost.sum()), cut + int((lost > 0).sum())
        ends = np.cumsum(np.concatenate(lengths))
        edges = tokenizer.cls_id, tokenizer.sep_id
        return cls(texts, np.concatenate(found), ends, identity, dropped, cut, edges, np.concatenate(counts)), numbers

    def sequence(self, number: int) -> np.ndarray:
        """The tokens of one text, without special ones."""
        return self.ids[int(self.ends[number - 1]) if number else 0 : int(self.ends[number])]

    def batch(self, numbers: np.ndarray, noise: TokenNoise | None = None) -> tuple[Batch, Tensor]:
        """Texts (B,) as a packed batch, longest first, and the place (W,) of each window in it, text by text: one a
        text where none is longer than the model takes."""
        sequences = [self.sequence(int(number)) for number in numbers]
        if noise is not None:
            sequences = [noise(place, sequence) for place, sequence in enumerate(sequences)]
        if self.has_windows:
            counts = self.num_windows[numbers].tolist()
            sequences = [
                part for ids, count in zip(sequences, counts, strict=True) for part in split_evenly(ids, count)
            ]
        order = np.argsort([-len(sequence) for sequence in sequences], kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return pack_sequences([sequences[i] for i in order], *self.special_ids), torch.from_numpy(place)

    @cached_property
    def has_windows(self) -> bool:
        """Whether any text is read in several windows."""
        return bool((self.num_windows > 1).any())

    def window_owner(self, numbers: np.ndarray) -> Tensor:
        """(W,) which of the texts (B,) each window of their batch is of."""
        return torch.from_numpy(np.repeat(np.arange(len(numbers)), self.num_windows[numbers]))


def average_windows_torch(found: Tensor, lengths: Tensor, owner: Tensor, texts: int) -> Tensor:
    """(B, …) vectors of texts from those (W, …) of their windows, weighted by the windows' lengths (W,), special tokens
    included: `embedder.averaged`, with gradients."""
    if len(owner) == texts:
        return found
    sizes = lengths.double()
    weights = sizes / sizes.new_zeros(texts).index_add(0, owner, sizes)[owner]
    weighted = found.float() * weights.float().view(-1, *(1,) * (found.ndim - 1))
    return weighted.new_zeros(texts, *found.shape[1:]).index_add(0, owner, weighted)
