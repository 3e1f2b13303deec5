"""First vectors of words and the decoder's bias, from counts of neighbours: what several beginnings start with.

Word table: the leading singular vectors of what neighbours tell of words (`_information`), times the root of their
singular values, turned at random so that no dimension stands out. Decoder: its bias begins as the log of the
frequencies (arXiv:2212.09686). Tokens never seen, special ones among them, stay as they were drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.base.errors import SettingsError
from encodery.model.network import Model
from encodery.tokens.bigrams import bigram_counts
from encodery.tokens.store import TokenSplit
from encodery.train.data_init import DataInit
from encodery.train.data_init._pmi import SparsePairs, leading_singular_vectors, positive_pmi

DEFAULT_STD, DEFAULT_STD_WIDTH = 0.1, 128  # beyond which it falls, so that the first logits stay as large as there
KEPT_NOISE = 0.1  # share of the drawn values that stays, so that no two words are one


@dataclass(frozen=True, kw_only=True)
class CountBasedInit(DataInit):
    """`std`: spread of the values of the word table (absent: 0.1 up to a width of 128, 12.8 / width beyond); `tokens`:
    how many of the training split are counted at most."""

    std: float | None = None
    max_tokens: int = 10_000_000

    def __post_init__(self) -> None:
        if self.std is not None and not self.std > 0:
            raise SettingsError(f"std = {self.std}: must be more than 0.")
        if self.max_tokens < 1:
            raise SettingsError(f"tokens = {self.max_tokens}: must be at least 1.")

    def embedding_std(self, width: int) -> float:
        """`std`, of a table of that width."""
        return DEFAULT_STD * min(DEFAULT_STD_WIDTH / width, 1.0) if self.std is None else self.std

    def init_token_embeddings(self, model: Model, split: TokenSplit, generator: torch.Generator) -> SparsePairs | None:
        """Fill word table and decoder bias. What neighbours tell of words; None, and nothing changed, where no two
        tokens stand side by side."""
        words, bias = model.encoder.token_embeddings, None
        if "mlm" in model.heads:
            bias = getattr(model.heads["mlm"], "bias", None)
        found = bigram_counts(split, len(words), self.max_tokens)
        if not len(found.counts):
            return None
        seen, tables = torch.from_numpy(found.token_counts > 0), positive_pmi(found)
        vectors = leading_singular_vectors(tables, len(words), words.shape[1], generator)
        vectors = vectors[seen] - vectors[seen].mean(0)
        found_std = vectors.std()
        with torch.no_grad():
            if found_std > 0:
                words[seen] = vectors * (self.embedding_std(words.shape[1]) / found_std) + KEPT_NOISE * words[seen]
            if bias is not None:
                often = torch.from_numpy(found.token_counts + 1.0)
                bias.copy_((often / often.sum()).log())
        return tables
