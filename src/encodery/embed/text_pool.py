"""The texts of a data set, tokenised once, each kept once; examples are rows of indices into them.

A text that is longer than the model takes can be kept whole (`truncate` = "chunk"): it is read in windows that are
separate sequences and whose embeddings are averaged, as in use (`encoders.text_windows`).
Shapes: P texts, E examples, C columns, B texts of a batch, W windows of these.
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
"""The place of a text in a batch and its tokens → the tokens that the model reads."""
TEXTS_AT_ONCE = 8192  # Texts tokenised at a time.


@dataclass(frozen=True, eq=False)
class TextPool:
    """P tokenised texts.

    Args:
        texts: as they were written, without prompts.
        ids: the tokens of all texts; those of text i end at `ends[i]`.
        ends: (P,).
        text_ids: (P,), equal for texts that differ by their prompt only.
        dropped: tokens that were cut off, of `num_truncated` texts.
        special_ids: the tokens before and after each sequence.
        num_windows: (P,), the windows that each text is read in.
        lengths: (P,), tokens of each text with the special tokens of all its windows.
    """

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
        """Return the pool of C columns of texts, and the indices (E, C) of the examples.

        `prompts`: what is put before the texts of each column. A text of more than `max_tokens` tokens is refused, cut
        off, or read in windows, as `truncate` says (`tokens/windows.py`).
        """
        index_of: dict[tuple[str, str], int] = {}
        indices = np.empty((len(columns[0]), len(columns)), np.int64)
        for place, (column, prompt) in enumerate(zip(columns, prompts, strict=True)):
            indices[:, place] = [index_of.setdefault((prompt, text), len(index_of)) for text in column]
        texts = [text for _, text in index_of]
        distinct: dict[str, int] = {}
        text_ids = np.array([distinct.setdefault(text, len(distinct)) for text in texts], np.int64)
        tokens, lengths, counts = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        dropped = num_truncated = 0
        whole = [prompt + text for prompt, text in index_of]
        for first in range(0, len(whole), TEXTS_AT_ONCE):
            ids = tokenizer.encode_batch(whole[first : first + TEXTS_AT_ONCE])
            windows, lost = split_into_windows(ids, max_tokens, parse_truncate(truncate), first)
            tokens += [window.ids for window in windows]
            owner, sizes = [window.text for window in windows], [len(window.ids) for window in windows]
            counts.append(np.bincount(owner, minlength=len(ids)))
            lengths.append(np.bincount(owner, weights=sizes, minlength=len(ids)).astype(np.int64))
            dropped, num_truncated = dropped + int(lost.sum()), num_truncated + int((lost > 0).sum())
        pool = cls(
            texts=texts,
            ids=np.concatenate(tokens),
            ends=np.cumsum(np.concatenate(lengths)),
            text_ids=text_ids,
            dropped=dropped,
            num_truncated=num_truncated,
            special_ids=(tokenizer.cls_id, tokenizer.sep_id),
            num_windows=np.concatenate(counts),
        )
        return pool, indices

    def sequence(self, index: int) -> np.ndarray:
        """Return the tokens of a text, without special ones."""
        return self.ids[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])]

    def batch(self, indices: np.ndarray, noise: TokenNoise | None = None) -> tuple[Batch, Tensor]:
        """Return texts (B,) as a packed batch, longest sequence first, and the place (W,) of each window in it, in the
        order of the texts."""
        sequences = [self.sequence(int(index)) for index in indices]
        if noise is not None:
            sequences = [noise(place, sequence) for place, sequence in enumerate(sequences)]
        if self.has_windows:
            counts = self.num_windows[indices].tolist()
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

    def window_owner(self, indices: np.ndarray) -> Tensor:
        """Return (W,) the text of each window, for texts (B,)."""
        return torch.from_numpy(np.repeat(np.arange(len(indices)), self.num_windows[indices]))


def average_windows_torch(vectors: Tensor, lengths: Tensor, owner: Tensor, texts: int) -> Tensor:
    """Return vectors (B, …) of texts from those (W, …) of their windows, weighted by the lengths (W,) of the windows,
    special tokens included. It is `TextWindows.average` with gradients."""
    if len(owner) == texts:
        return vectors
    sizes = lengths.double()
    weights = sizes / sizes.new_zeros(texts).index_add(0, owner, sizes)[owner]
    weighted = vectors.float() * weights.float().view(-1, *(1,) * (vectors.ndim - 1))
    return weighted.new_zeros(texts, *vectors.shape[1:]).index_add(0, owner, weighted)
