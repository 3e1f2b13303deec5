"""Training of learned sparse vectors: the job of embeddings with the masked-language-model head in place of pooling.

arXiv:2107.05720. Losses compare by dot product (`similarity = "dot"`) and are wrapped in `flops`, which keeps vectors
sparse; weights of a text's own tokens (`weighed = "tokens"`) are few already. With `queries = "bow"` the anchors
are bags of tokens, and the model learns from the other texts alone (arXiv:2108.08513).

Masked language modelling leaves open where a head's scores stand, since a softmax sees differences only. Where nearly
all are below 0, a text has no words, and nothing would be learned: such a head's bias, which is mostly how frequent
words are, is replaced by one number for all words, with which a text has as many words as tokens at the start. One that
says few words may have learned to.
Shapes: B examples, C columns, S sequences, V vocabulary, P texts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.machine import derive_seed
from encodery.base.settings import encode
from encodery.embed.heldout_metrics import EncodedTexts, EncodedVectors
from encodery.embed.job import EmbedJob
from encodery.embed.losses import LossInputs
from encodery.embed.text_pool import TextPool
from encodery.encoders import DOCUMENT, QUERY, storage
from encodery.encoders.sparse import (
    KEY,
    SparseEncoder,
    SparseSettings,
    TermHead,
    check_head,
    regular_tokens,
    term_weights,
    token_counts,
    vocabulary_scores,
    vocabulary_weights,
)
from encodery.model import golden
from encodery.model.load import Provenance, save_model
from encodery.model.shape import Batch

LOOKED_AT = 64  # texts, for where a head's scores stand
ASLEEP = 0.1  # words of a text for each of its tokens, below which a head is woken
WOKEN = (
    "At the start the head gives a text {words:.1f} words where it has {tokens:.0f} tokens, too few to learn from: its "
    "bias is set anew, so that a text has as many words as tokens."
)


class SparseJob(EmbedJob):
    """See `EmbedJob`. Of the embedding settings only `max_length` and `prompts` count."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.woken = self._wake() if self.settings.weighed == "vocabulary" else None

    def head(self) -> nn.Module:
        """The model's own head, which is trained with it and stands apart, or one for weights of tokens: the model's
        where it has one, else a new one. Raises `SettingsError` where the model has no head of its own."""
        if self.settings.weighed == "vocabulary":
            check_head(self.model, "vocabulary", None)
            self.model.heads.requires_grad_(self.settings.adapt is None)
            return nn.Identity()
        made = TermHead(self.model.settings.width)
        if self.loaded.settings.get(KEY, {}).get("terms") == "tokens":
            kept = self.loaded.module_state(KEY)
            made.load_state_dict({name: tensor for name, tensor in kept.items() if name != "golden"})
        return made

    @torch.no_grad()
    def _wake(self) -> str | None:
        """Give the head a bias with which texts have words; what was found, None where they have enough."""
        _, bias = self.model.mlm_head.decoder(self.model.encoder)
        if bias is None:
            return None
        draw = np.random.default_rng(derive_seed(self.train.seed, "wake"))
        texts = np.sort(draw.permutation(len(self.examples.texts))[:LOOKED_AT])
        self.module.eval()
        scores = torch.cat(
            [
                vocabulary_scores(self.model, self.examples.batch(texts[i : i + 1])[0].to(self.device))
                for i in range(len(texts))
            ]
        )
        self.module.train()
        tokens, words = float(self.examples.lengths[texts].mean()), float((scores > 0).sum(1).float().mean())
        if words >= ASLEEP * tokens:
            return None
        apart = (scores - bias).flatten()
        kept = max(min(round(tokens * len(texts)), apart.numel() - 1), 1)
        bias.fill_(-float(apart.kthvalue(apart.numel() - kept).values))
        return WOKEN.format(words=words, tokens=tokens)

    def warnings(self, dtype: torch.dtype) -> list[str]:
        """See `Job`. A head whose scores all lay below 0."""
        return [*super().warnings(dtype), *([] if self.woken is None else [self.woken])]

    def _vectors(self, batch: Batch, layers: list[int]) -> Tensor:
        """(S, 1, V)."""
        if layers:
            raise SettingsError("Sparse vectors are made of the last layer alone; choose another loss.")
        if isinstance(self.pooling, TermHead):
            return term_weights(self.model, self.pooling, batch, self._ordinary)[:, None]
        return vocabulary_weights(self.model, batch)[:, None]

    @functools.cached_property
    def _ordinary(self) -> Tensor:
        """(V,) bool: the tokens that are not special."""
        return regular_tokens(self.loaded.tokenizer, self.model.settings.vocab_size).to(self.device)

    def _given(self, found: Tensor, batch: Batch) -> LossInputs:
        """Vectors (C, B, 1, V) as the loss sees them, the first column counted where queries are."""
        if self.settings.queries == "bow":
            counts = token_counts(batch, self.model.settings.vocab_size, self._ordinary)
            anchors = counts[batch.extra["place"][: batch.extra["texts"].shape[1]]]
            found = torch.cat([self._of_all(anchors)[None, :, None], found[1:]])
        return super()._given(found, batch)

    def compared(self, pool: TextPool, texts: np.ndarray) -> EncodedTexts:
        """See `EmbedJob`."""
        rows = self._encoded(pool, texts)
        if self.settings.queries == "encoder":
            return EncodedVectors(rows)
        plain = self._ordinary.cpu().numpy()
        bags = [pool.sequence(int(number)) for number in texts]
        return _Counted(rows, [bag[plain[bag]].astype(np.int64) for bag in bags])

    def write(self, folder: Path, figures: Mapping[str, Any]) -> None:
        """The model with its settings for sparse vectors."""
        embed = self.settings.encoder
        model, sides = self.result(), {QUERY: "", DOCUMENT: ""} if self.settings.queries == "bow" else {}
        sparse = SparseSettings(
            terms=self.settings.weighed,
            query_encoding=self.settings.queries,
            max_length=embed.max_length,
            prompts={**sides, **embed.prompts},
        )
        modules = {}
        if isinstance(self.pooling, TermHead):
            kept = {name: tensor.detach().cpu() for name, tensor in self.pooling.state_dict().items()}
            head = TermHead(model.settings.width)
            head.load_state_dict(kept)
            encoder = SparseEncoder(model, self.loaded.tokenizer, sparse, "cpu", head)
            kept["golden"] = storage.golden_vectors(encoder.token_scores, golden.golden_outputs(model), encoder.device)
            modules[KEY] = kept
        save_model(
            folder,
            model,
            self.loaded.tokenizer_path,
            settings={"recipe": self.recipe, KEY: encode(sparse)},
            modules=modules,
            provenance=Provenance.of(self.loaded, keep_origin=True),
            metrics=figures,
            overwrite=True,
        )


@dataclass(frozen=True, eq=False)
class _Counted:
    """Texts with weights `rows` (P, V), and their tokens `bags` (P of (n,)), as which they are asked for."""

    rows: np.ndarray
    bags: list[np.ndarray]

    def cross(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """See `Compared`."""
        held = self.rows[other]
        found: np.ndarray = np.stack([held[:, self.bags[int(number)]].sum(1) for number in one])
        return found

    def pairs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """See `Compared`."""
        found = [self.rows[int(b)][self.bags[int(a)]].sum() for a, b in zip(one, other, strict=True)]
        return np.array(found, np.float32)
