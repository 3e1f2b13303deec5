"""Token ids of windows as a packed batch with [CLS] and [SEP]. Shapes: T tokens, B sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from encodery.model.shape import Batch


def pack_sequences(sequences: Sequence[np.ndarray], first: int, last: int) -> Batch:
    """The packed batch (T) of B sequences of ids, each between the ids `first` and `last`; no loop over tokens."""
    lengths = np.array([len(ids) + 2 for ids in sequences], np.int64)
    ends = np.cumsum(lengths)
    ids = np.empty(int(ends[-1]), np.int64)
    is_edge = np.zeros(len(ids), bool)
    ids[ends - lengths], ids[ends - 1] = first, last
    is_edge[ends - lengths] = is_edge[ends - 1] = True
    ids[~is_edge] = np.concatenate(sequences)
    cu_seqlens = np.concatenate([[0], ends]).astype(np.int32)
    return Batch(torch.from_numpy(ids), torch.from_numpy(cu_seqlens), int(lengths.max()))
