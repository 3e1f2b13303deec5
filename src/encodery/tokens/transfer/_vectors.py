"""Static vectors of the pieces of a vocabulary, from raw text: factorised co-occurrence counts.

Positive pointwise mutual information of pieces within a window, weighted by 1 / distance, reduced by a singular value
decomposition; as good as skip-gram if counts are smoothed like this (Levy, Goldberg and Dagan 2015). It takes seconds
where training vectors takes minutes. Shapes: V vocabulary, D width, n tokens, R pairs that occurred.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from encodery.base.errors import EmptyInput, InputError
from encodery.corpus.shards import read_documents, shard_paths
from encodery.rows.read import read_file
from encodery.tokens.tokenizer import Tokenizer

MAX_TOKENS = 10_000_000  # read from the beginning of a text
TOKENS_PER_RUN = 1_000_000  # tokens counted together
PIECES_AT_ONCE = 2048  # texts tokenised, or pieces compared, together
CONTEXT_SMOOTHING = 0.75  # power of the neighbours' counts, which reduces the weight of rare ones
MIN_NEIGHBOURS = 2  # different neighbours that a piece needs
TEXT_GAP = 32  # positions between texts; no window is wider, so none crosses them


def static_vectors(tokenizer: Tokenizer, path: Path, width: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors (V, D) float32, and the ids (n,) that have one; the others are zeros.

    A piece has a vector if it had at least `MIN_NEIGHBOURS` different neighbours. `path` is a file of texts (one per
    line, or a table with a column `text`) or a corpus. Raises `InputError`, `EmptyInput`.
    """
    size = tokenizer.vocab_size
    pairs, counts = _pairs(tokenizer, path, window, size)
    if not len(pairs):
        raise EmptyInput(f"{path}: holds no text from which static vectors could be computed.")
    row, column = np.divmod(pairs, size)
    of_row = np.bincount(row, counts, size)
    of_column = np.bincount(column, counts, size) ** CONTEXT_SMOOTHING
    expected = of_row[row] * of_column[column] / of_column.sum()
    strength = np.log(np.maximum(counts / expected, 1e-12))
    kept = strength > 0
    indices = torch.from_numpy(np.stack([row[kept], column[kept]]))
    matrix = torch.sparse_coo_tensor(
        indices, torch.from_numpy(strength[kept].astype(np.float32)), (size, size), check_invariants=True
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, values, _ = torch.svd_lowrank(matrix.coalesce(), q=min(width, size), niter=4)
    vectors = (left * values.sqrt()).numpy()
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    occurred = np.bincount(row, minlength=size) >= MIN_NEIGHBOURS
    known = np.flatnonzero(occurred & (norms[:, 0] > 1e-6) & ~np.isin(np.arange(size), list(tokenizer.special_ids)))
    unit = np.zeros_like(vectors)
    unit[known] = vectors[known] / norms[known]
    return unit, known


def read_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a file, or the documents of a corpus's training split. Raises `InputError`."""
    if path.is_dir():
        shards = shard_paths(path, "train")
        if not shards:
            raise InputError(f"{path}: is no corpus; give a corpus or a file of texts.")
        yield from (document.text for document in read_documents(shards))
        return
    table = read_file(path)
    if "text" not in table.names:
        raise InputError(f"{path}: has no column 'text'; it has {', '.join(table.names)}.")
    yield from (str(text) for text in table["text"])


def _pairs(tokenizer: Tokenizer, path: Path, window: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (R,) of neighbours, as id · V + id, and their counts (R,), 1 / distance for each time, in both orders."""
    pairs, counts = np.zeros(0, np.int64), np.zeros(0)
    for run in _runs(tokenizer, path):
        run_pairs, weights = [pairs], [counts]
        for distance in range(1, window + 1):
            one, other = run[:-distance], run[distance:]
            real = (one >= 0) & (other >= 0)
            run_pairs.append(one[real] * size + other[real])
            weights.append(np.full(int(real.sum()), 1 / distance))
        pairs, counts = _added(np.concatenate(run_pairs), np.concatenate(weights))
    one, other = np.divmod(pairs, size)
    return _added(np.concatenate([pairs, other * size + one]), np.concatenate([counts, counts]))


def _added(pairs: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pair once, with the sum of its counts."""
    unique, inverse = np.unique(pairs, return_inverse=True)
    return unique, np.bincount(inverse, counts, len(unique))


def _runs(tokenizer: Tokenizer, path: Path) -> Iterator[np.ndarray]:
    """The ids of many texts, each followed by `TEXT_GAP` times -1."""
    gap = np.full(TEXT_GAP, -1, np.int64)
    parts: list[np.ndarray] = []
    tokens = pending = 0
    for batch in _batches(read_texts(path)):
        for ids in tokenizer.encode_batch(batch):
            parts += [ids.astype(np.int64), gap]
            pending += len(ids)
        if pending >= TOKENS_PER_RUN:
            yield np.concatenate(parts)
            tokens, pending, parts = tokens + pending, 0, []
        if tokens >= MAX_TOKENS:
            return
    if pending:
        yield np.concatenate(parts)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(itertools.islice(texts, PIECES_AT_ONCE)):
        yield batch


def sparsemax(scores: np.ndarray) -> np.ndarray:
    """Return weights (n, V) of scores (n, V) that sum to 1, most of them exactly 0. arXiv:1602.02068"""
    ordered = -np.sort(-scores.astype(np.float64), axis=1)
    sums = np.cumsum(ordered, axis=1) - 1
    ranks = np.arange(1, scores.shape[1] + 1)
    size = (ordered * ranks > sums).sum(axis=1)
    threshold = sums[np.arange(len(scores)), size - 1] / size
    weights: np.ndarray = np.maximum(scores - threshold[:, None], 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights
