"""What neighbours tell of words: positive pointwise mutual information, as sparse matrices, and its leading vectors.

Contexts count to the power 0.75 (Levy, Goldberg and Dagan, TACL 2015).
Shapes: V vocabulary, E embedding width, K columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.tokens.bigrams import BigramCounts
from encodery.tokens.shuffle import Integers

Floats = npt.NDArray[np.float64]
CONTEXT_POWER = 0.75  # power of the contexts' frequencies
OVERSAMPLING = 32  # vectors beyond those wanted, for exactness (arXiv:0909.4061)
POWER_ITERATIONS = 4


class SparseMatrix:
    """A sparse matrix (V, V) by its rows."""

    def __init__(self, rows: Integers, columns: Integers, values: Floats, size: int) -> None:
        order = np.argsort(rows, kind="stable")
        ends = np.cumsum(np.bincount(rows, minlength=size))
        self.columns = torch.from_numpy(columns[order])
        self.values = torch.from_numpy(values[order].astype(np.float32))
        self.offsets = torch.from_numpy(np.concatenate([[0], ends[:-1]]))

    def __matmul__(self, right: Tensor) -> Tensor:
        """(V, K) of (V, K)."""
        return F.embedding_bag(
            self.columns, right.contiguous(), self.offsets, mode="sum", per_sample_weights=self.values
        )


SparsePairs = list[tuple[SparseMatrix, SparseMatrix]]


def leading_singular_vectors(tables: SparsePairs, size: int, width: int, generator: torch.Generator) -> Tensor:
    """Left singular vectors of both tables side by side, times the root of their singular values, turned at random:
    (V, E) float32 for V = `size`, E = `width`; zero behind as many columns as there are words."""
    wanted = min(width, size)
    basis = torch.linalg.qr(torch.randn(size, min(width + OVERSAMPLING, size), generator=generator))[0]
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(sum((m @ (t @ basis) for m, t in tables), torch.zeros_like(basis)))[0]
    narrow = torch.cat([t @ basis for _, t in tables])
    values, turns = torch.linalg.eigh(narrow.T @ narrow)
    # Eigenvalues of M Mᵀ are squares of singular values, and rise.
    vectors = basis @ turns[:, -wanted:] * values[-wanted:].clamp(min=0).sqrt().sqrt()
    turn = torch.linalg.qr(torch.randn(wanted, wanted, generator=generator))[0]
    return F.pad(vectors @ turn, (0, width - wanted))


def positive_pmi(found: BigramCounts) -> SparsePairs:
    """Of words (rows) with what follows, and with what precedes: each matrix and its transpose."""
    made = []
    for word, context in ((found.left, found.right), (found.right, found.left)):
        size, count = len(found.token_counts), found.counts.astype(np.float64)
        rows, columns = (np.bincount(ids, count, size) for ids in (word, context))
        smooth = columns**CONTEXT_POWER
        surprise = np.log(count / (rows[word] * (smooth / smooth.sum())[context]))
        kept = surprise > 0
        places, values = (word[kept], context[kept]), surprise[kept]
        made.append((SparseMatrix(*places, values, size), SparseMatrix(*places[::-1], values, size)))
    return made
