"""The tokenised texts of the training examples, and how the examples of a step become one packed batch.

Shapes: E examples, C columns, P texts of the pool, B examples of a batch, S sequences of a batch, G dimensions of the
guide's embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from encodery.embed.text_pool import TextPool, TokenNoise, average_windows_torch
from encodery.model.shape import Batch
from encodery.tokens.shuffle import Integers


@dataclass(frozen=True)
class StepInfo:
    """What collating depends on besides the examples: the `seed` of the micro-batch, the run's `progress` (0..1), and
    the `layers` that the loss needs embeddings of besides the last."""

    seed: int = 0
    progress: float = 0.0
    layers: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingTexts:
    """The training examples as indices into a pool of texts.

    Args:
        pool: P tokenised texts.
        indices: (E, C), the texts of each example.
        target: (E, …), the labels of the examples.
        guide: (P, G), another model's embeddings of the texts.
    """

    pool: TextPool
    indices: Integers
    target: Tensor | None = None
    guide: np.ndarray | None = None

    @property
    def lengths(self) -> Integers:
        """(E,) tokens of each example, all its texts and special tokens together."""
        lengths: Integers = self.pool.lengths[self.indices].sum(1)
        return lengths

    def batch(self, examples: Integers, step: StepInfo, noise: TokenNoise | None = None) -> Batch:
        """Return the texts of the examples (B,) as a packed batch.

        In `extra`: `place` (S,), where each sequence is in the batch, column by column; `texts` (C, B), equal where
        texts are equal; `owner` (S,), the text of each sequence, where texts are read in windows; `target`, `guide`,
        `progress` and `layers`.
        """
        texts = self.indices[examples].T
        batch, place = self.pool.batch(texts.reshape(-1), noise)
        extra = {"place": place, "texts": torch.from_numpy(self.pool.text_ids[texts])}
        if self.pool.has_windows:
            extra["owner"] = self.pool.window_owner(texts.reshape(-1))
        if self.target is not None:
            extra["target"] = self.target[examples]
        if self.guide is not None:
            extra["guide"] = torch.from_numpy(self.guide[texts])
        extra["progress"] = torch.tensor(step.progress)
        extra["layers"] = torch.tensor(step.layers, dtype=torch.int64)
        return replace(batch, extra=extra)


def by_text(vectors: Tensor, batch: Batch, texts: int) -> Tensor:
    """Return vectors (texts, …) in the order of the texts, from those (S, …) of the sequences of a batch.

    The windows of a text are averaged by their lengths.
    """
    place = batch.extra["place"]
    if "owner" not in batch.extra:
        return vectors[place]
    return average_windows_torch(vectors[place], batch.cu_seqlens.diff()[place], batch.extra["owner"], texts)


def by_column(vectors: Tensor, batch: Batch, layers: Sequence[int]) -> Tensor:
    """Return vectors (C, B, 1 + layers, K) by column and example, from those (S, 1 + layers, K) of a batch."""
    columns, examples = batch.extra["texts"].shape
    return by_text(vectors, batch, columns * examples).view(columns, examples, len(layers) + 1, -1)
