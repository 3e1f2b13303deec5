"""Words that stand between the same neighbours begin alike, and each is guessed as often as it occurs.

Word table: the left and the right neighbour of every token are counted; of the positive pointwise mutual information
of words with both (contexts to the power 0.75; Levy, Goldberg and Dagan, TACL 2015) the leading singular vectors,
times the root of their singular values, are the vectors, turned at random so that no dimension stands out. Masked
language modelling would spend its first minutes on finding as much. Decoder: its bias begins as the log of the
frequencies (arXiv:2212.09686). Vectors of other models, brought into a narrow range, are known to help transformers
(arXiv:2407.12514); these come from the run's own text, in seconds.

Differs from `random`: by that alone. Tokens never seen, special ones among them, stay as they were drawn.
Shapes: V vocabulary, E embedding width, K vectors looked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.model.network import Model
from encodery.tokens.neighbours import Neighbours, neighbours
from encodery.tokens.shuffle import Integers
from encodery.tokens.store import TokenSplit
from encodery.train.begin import Begin

Floats = npt.NDArray[np.float64]
SMOOTH = 0.75  # power of the contexts' frequencies
SPARE = 32  # vectors beyond those wanted, for exactness (arXiv:0909.4061)
ROUNDS = 4
OLD = 0.1  # share of the drawn values that stays, so that no two words are one


@dataclass(frozen=True, kw_only=True)
class Cooccurrence(Begin):
    """`std`: spread of the values of the word table; `tokens`: how many of the training split are counted at most."""

    std: float = 0.1
    tokens: int = 10_000_000

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise SettingsError(f"std = {self.std}: must be more than 0.")
        if self.tokens < 1:
            raise SettingsError(f"tokens = {self.tokens}: must be at least 1.")

    def fill(self, model: Model, split: TokenSplit, generator: torch.Generator) -> None:
        """Word table and decoder bias; nothing where no two tokens stand side by side."""
        words, bias = model.encoder.words, None
        if "mlm" in model.heads:
            bias = getattr(model.heads["mlm"], "bias", None)
        found = neighbours(split, len(words), self.tokens)
        if not len(found.count):
            return
        seen = torch.from_numpy(found.seen > 0)
        vectors = _vectors(found, words.shape[1], generator)
        vectors = vectors[seen] - vectors[seen].mean(0)
        spread = vectors.std()
        with torch.no_grad():
            if spread > 0:
                words[seen] = vectors * (self.std / spread) + OLD * words[seen]
            if bias is not None:
                often = torch.from_numpy(found.seen + 1.0)
                bias.copy_((often / often.sum()).log())


class _Sparse:
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


def _vectors(found: Neighbours, width: int, generator: torch.Generator) -> Tensor:
    """(V, E) float32; zero behind as many columns as there are words."""
    size, wanted = len(found.seen), min(width, len(found.seen))
    tables = _information(found)
    basis = torch.linalg.qr(torch.randn(size, min(width + SPARE, size), generator=generator))[0]
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(sum((m @ (t @ basis) for m, t in tables), torch.zeros_like(basis)))[0]
    narrow = torch.cat([t @ basis for _, t in tables])
    values, turns = torch.linalg.eigh(narrow.T @ narrow)
    # Eigenvalues of M Mᵀ are squares of singular values, and rise.
    leading = basis @ turns[:, -wanted:] * values[-wanted:].clamp(min=0).sqrt().sqrt()
    turn = torch.linalg.qr(torch.randn(wanted, wanted, generator=generator))[0]
    return F.pad(leading @ turn, (0, width - wanted))


def _information(found: Neighbours) -> list[tuple[_Sparse, _Sparse]]:
    """Positive pointwise mutual information of words (rows) with what follows, and with what precedes: each matrix and
    its transpose."""
    made = []
    for word, context in ((found.left, found.right), (found.right, found.left)):
        size, count = len(found.seen), found.count.astype(np.float64)
        rows, columns = (np.bincount(ids, count, size) for ids in (word, context))
        smooth = columns**SMOOTH
        information = np.log(count / (rows[word] * (smooth / smooth.sum())[context]))
        kept = information > 0
        places, values = (word[kept], context[kept]), information[kept]
        made.append((_Sparse(*places, values, size), _Sparse(*places[::-1], values, size)))
    return made
