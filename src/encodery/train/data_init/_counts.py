"""Token embeddings and the bias of the decoder from counts of neighbours: the common first step of several parts.

Token embeddings: the leading singular vectors of the positive pointwise mutual information of neighbours (`_pmi`),
times the root of their singular values, rotated at random so that no dimension stands out. Decoder: its bias is the log
of the frequencies (arXiv:2212.09686). Tokens that never occur, special ones among them, keep their random embeddings.
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

DEFAULT_STD, DEFAULT_STD_WIDTH = 0.1, 128  # beyond this width the std falls, so that the first logits stay as large
KEPT_NOISE = 0.1  # fraction of the random values that is kept, so that no two embeddings are equal


@dataclass(frozen=True, kw_only=True)
class CountBasedInit(DataInit):
    """`std`: standard deviation of the token embeddings (absent: 0.1 up to a width of 128, 12.8 / width beyond);
    `max_tokens`: how many tokens of the training split are counted at most."""

    std: float | None = None
    max_tokens: int = 10_000_000

    def __post_init__(self) -> None:
        if self.std is not None and not self.std > 0:
            raise SettingsError(f"std = {self.std}: must be above 0.")
        if self.max_tokens < 1:
            raise SettingsError(f"max_tokens = {self.max_tokens}: must be at least 1.")

    def embedding_std(self, width: int) -> float:
        """The standard deviation of token embeddings of this width."""
        return DEFAULT_STD * min(DEFAULT_STD_WIDTH / width, 1.0) if self.std is None else self.std

    def init_token_embeddings(self, model: Model, split: TokenSplit, generator: torch.Generator) -> SparsePairs | None:
        """Initialise token embeddings and decoder bias. Returns the statistics of neighbours; None, with nothing
        changed, if no two tokens are neighbours."""
        embeddings, bias = model.encoder.token_embeddings, None
        if "mlm" in model.heads:
            bias = getattr(model.heads["mlm"], "bias", None)
        bigrams = bigram_counts(split, len(embeddings), self.max_tokens)
        if not len(bigrams.counts):
            return None
        occurs, pmi = torch.from_numpy(bigrams.token_counts > 0), positive_pmi(bigrams)
        vectors = leading_singular_vectors(pmi, len(embeddings), embeddings.shape[1], generator)
        vectors = vectors[occurs] - vectors[occurs].mean(0)
        std = vectors.std()
        with torch.no_grad():
            if std > 0:
                scale = self.embedding_std(embeddings.shape[1]) / std
                embeddings[occurs] = vectors * scale + KEPT_NOISE * embeddings[occurs]
            if bias is not None:
                smoothed = torch.from_numpy(bigrams.token_counts + 1.0)
                bias.copy_((smoothed / smoothed.sum()).log())
        return pmi
