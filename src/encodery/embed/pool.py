"""The texts of a training set, tokenised once, each kept once; examples are rows of numbers into them.

Shapes: P texts, E examples, C columns, B sequences of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from encodery.base.errors import InputError
from encodery.embed.embedder import packed
from encodery.model.shape import Batch
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import checked, windows

Noise = Callable[[int, np.ndarray], np.ndarray]
"""Place among the texts of a batch, tokens of the text → what the model shall see of it."""
AT_ONCE = 8192  # Texts tokenised at a time.


@dataclass(frozen=True, eq=False)
class Pool:
    """`texts` (P) as they were written, without prompts; `ids`, tokens of all of them, text i ending at `ends[i]`;
    `identity` (P,): equal for texts that differ by their prompt only; `dropped` tokens of `cut` texts were left out."""

    texts: list[str]
    ids: np.ndarray
    ends: np.ndarray
    identity: np.ndarray
    dropped: int
    cut: int
    edges: tuple[int, int]
    lengths: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", np.diff(self.ends, prepend=0) + 2)  # with the special tokens

    @classmethod
    def of(
        cls,
        columns: Sequence[Sequence[str]],
        prompts: Sequence[str],
        tokenizer: Tokenizer,
        longest: int,
        truncate: str,
    ) -> tuple[Pool, np.ndarray]:
        """The pool of columns of texts, each read with its prompt before it, and the numbers (E, C) of the examples.

        A text longer than `longest` tokens is cut or refused (`tokens/windows.py`); "chunk" is no choice here.
        """
        if checked(truncate) == "chunk":
            raise InputError("truncate = 'chunk': an example is one sequence a text; choose error, right or left.")
        known: dict[tuple[str, str], int] = {}
        numbers = np.empty((len(columns[0]), len(columns)), np.int64)
        for place, (column, prompt) in enumerate(zip(columns, prompts, strict=True)):
            numbers[:, place] = [known.setdefault((prompt, text), len(known)) for text in column]
        texts = [text for _, text in known]
        plain: dict[str, int] = {}
        identity = np.array([plain.setdefault(text, len(plain)) for text in texts], np.int64)
        found, lengths = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
        dropped = cut = 0
        whole = [prompt + text for prompt, text in known]
        for first in range(0, len(whole), AT_ONCE):
            ids = tokenizer.encode_batch(whole[first : first + AT_ONCE])
            kept, lost = windows(ids, longest, checked(truncate), first)
            found += [window.ids for window in kept]
            lengths.append(np.array([len(window.ids) for window in kept], np.int64))
            dropped, cut = dropped + int(lost.sum()), cut + int((lost > 0).sum())
        ends = np.cumsum(np.concatenate(lengths))
        edges = tokenizer.cls_id, tokenizer.sep_id
        return cls(texts, np.concatenate(found), ends, identity, dropped, cut, edges), numbers

    def sequence(self, number: int) -> np.ndarray:
        """The tokens of one text, without special ones."""
        return self.ids[int(self.ends[number - 1]) if number else 0 : int(self.ends[number])]

    def batch(self, numbers: np.ndarray, noise: Noise | None = None) -> tuple[Batch, torch.Tensor]:
        """Texts (B,) as a packed batch, longest first, and the place (B,) of each text in it."""
        sequences = [self.sequence(int(number)) for number in numbers]
        if noise is not None:
            sequences = [noise(place, sequence) for place, sequence in enumerate(sequences)]
        order = np.argsort([-len(sequence) for sequence in sequences], kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return packed([sequences[i] for i in order], *self.edges), torch.from_numpy(place)
