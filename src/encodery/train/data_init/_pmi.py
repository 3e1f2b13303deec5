"""Positive pointwise mutual information of neighbouring tokens, as sparse matrices, and its leading singular vectors.

Frequencies of contexts count to the power 0.75 (Levy, Goldberg and Dagan, TACL 2015).
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
CONTEXT_POWER = 0.75  # of the frequencies of contexts
OVERSAMPLING = 32  # vectors beyond those needed, for exactness (arXiv:0909.4061)
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
"""Matrices, each with its transpose."""


def leading_singular_vectors(pairs: SparsePairs, size: int, width: int, generator: torch.Generator) -> Tensor:
    """Left singular vectors of the matrices side by side, times the root of their singular values, rotated at random:
    (V, E) float32 for V = `size`, E = `width`; columns beyond the vocabulary are zero."""
    rank = min(width, size)
    basis = torch.linalg.qr(torch.randn(size, min(width + OVERSAMPLING, size), generator=generator))[0]
    for _ in range(POWER_ITERATIONS):
        products = (matrix @ (transpose @ basis) for matrix, transpose in pairs)
        basis = torch.linalg.qr(sum(products, torch.zeros_like(basis)))[0]
    narrow = torch.cat([transpose @ basis for _, transpose in pairs])
    values, rotation = torch.linalg.eigh(narrow.T @ narrow)
    # Eigenvalues of M Mᵀ are squares of singular values, in rising order.
    vectors = basis @ rotation[:, -rank:] * values[-rank:].clamp(min=0).sqrt().sqrt()
    random_rotation = torch.linalg.qr(torch.randn(rank, rank, generator=generator))[0]
    return F.pad(vectors @ random_rotation, (0, width - rank))


def positive_pmi(bigrams: BigramCounts) -> SparsePairs:
    """The positive PMI of tokens (rows) with the next, and with the previous token, each matrix with its transpose."""
    pairs = []
    for token, context in ((bigrams.left, bigrams.right), (bigrams.right, bigrams.left)):
        size, counts = len(bigrams.token_counts), bigrams.counts.astype(np.float64)
        token_totals, context_totals = (np.bincount(ids, counts, size) for ids in (token, context))
        smoothed = context_totals**CONTEXT_POWER
        pmi = np.log(counts / (token_totals[token] * (smoothed / smoothed.sum())[context]))
        positive = pmi > 0
        rows, columns, values = token[positive], context[positive], pmi[positive]
        pairs.append((SparseMatrix(rows, columns, values, size), SparseMatrix(columns, rows, values, size)))
    return pairs
