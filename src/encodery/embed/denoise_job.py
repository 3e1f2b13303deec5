"""Texts rebuilt from one vector: tokens are deleted, and a small decoder writes the whole text again. arXiv:2104.06979

TSDAE. The decoder sees the tokens before and the pooled vector, nothing else, so what it needs must be in the vector.
Differs from the paper: the decoder has few layers of its own instead of the encoder's weights, which makes it weak and
leaves more to the vector; words are looked up and scored with the encoder's table. The decoder falls off at the end.
Shapes: B texts, L longest of them, T tokens, H width, E width of the word table, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.base.machine import derive_seed
from encodery.embed.data import EmbeddingExamples, as_single_texts
from encodery.embed.job import EmbedJob
from encodery.embed.noise import delete_tokens
from encodery.embed.training import Rebuild
from encodery.model.ops.masked_cross_entropy.chunked import masked_cross_entropy
from encodery.model.packing import unpack
from encodery.model.shape import Batch, Layout, Shape
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers

START = 0.02  # spread of initial weights


class DenoiseJob(EmbedJob):
    """See `EmbedJob`; every text of the data is learned from by itself."""

    in_batch = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        assert self.settings.rebuild is not None
        self.rebuild_settings: Rebuild = self.settings.rebuild
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.train.seed, "decoder"))
            self.decoder = DenoisingDecoder(self.model.settings.shape, self.rebuild_settings.depth).to(self.device)
        self.module = nn.ModuleDict({"model": self.model, "pooling": self.pooling, "decoder": self.decoder})

    def arranged(self, train: EmbeddingExamples) -> EmbeddingExamples:
        """Every text by itself."""
        return as_single_texts(train)

    def collate(self, indices: Integers, seed: int) -> Batch:
        """Texts with tokens left out; `whole` and `ends` in extra: the texts as they were, `place` of each."""
        draw = np.random.default_rng(seed)
        texts = self.numbers[indices][:, 0]
        rate = self.rebuild_settings.delete
        batch, place = self.examples.batch(texts, lambda _, ids: delete_tokens(ids, rate, draw))
        whole, order = self.examples.batch(texts)
        # Row of the noisy batch for each sequence of the whole one, which has an order of its own.
        row = torch.empty_like(place)
        row[order] = place
        extra = {"whole": whole.ids, "ends": whole.cu_seqlens, "row": row}
        noisy = dataclasses.replace(batch, extra=extra)
        return noisy if self.device.type == "cpu" else noisy.to(self.device, non_blocking=True)

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        """All tokens but the first of each text."""
        return {"rebuild": batch.extra["whole"].numel() - len(batch)}

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        """See `Job`."""
        vectors = self._vectors(batch, [])[batch.extra["row"], 0]
        ids, ends = batch.extra["whole"], batch.extra["ends"]
        layout = Layout(ends, int(ends.diff().max()), ids.numel())
        words = self.model.encoder.token_embeddings
        features = self.decoder(F.embedding(ids, words), vectors, layout)
        first = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        first[ends[:-1].long()] = True
        told = torch.where(~first)[0]
        result = masked_cross_entropy(features[told - 1], words, self.decoder.bias, ids[told])
        right = LossTerm(result.correct.sum(), len(told), 0.0)
        return {"rebuild": LossTerm(result.total, len(told)), "rebuilt": right}


class DenoisingDecoder(nn.Module):
    """Words so far and a vector → features (T, E) whose products with the word table score the next word."""

    def __init__(self, shape: Shape, depth: int) -> None:
        super().__init__()
        self.widen = nn.Linear(shape.embedding_size, shape.width)
        self.place = nn.Parameter(torch.randn(shape.max_length, shape.width) * START)
        self.layers = nn.ModuleList(_Layer(shape.width, shape.heads) for _ in range(depth))
        self.norm = nn.LayerNorm(shape.width)
        self.narrow = nn.Linear(shape.width, shape.embedding_size)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=START)
                nn.init.zeros_(module.bias)

    def forward(self, words: Tensor, vectors: Tensor, layout: Layout) -> Tensor:
        """Embedded words (T, E) and vectors (B, H) → (T, E)."""
        x = self.widen(words) + self.place[layout.positions]
        memory = vectors[layout.sequence_ids]
        for layer in self.layers:
            x = layer(x, memory, layout)
        found: Tensor = self.narrow(self.norm(x))
        return found


class _Layer(nn.Module):
    """Causal attention among the words, then the vector, then a feed-forward layer; norms first.

    Attention over a single vector is that vector, whatever asks for it: a linear layer of it is added.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        self.norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out, self.memory = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, memory: Tensor, layout: Layout) -> Tensor:
        """(T, H) and the vector of each token's text (T, H) → (T, H)."""
        x = x + self._attend(self.norm(x), layout) + self.memory(memory)
        y: Tensor = x + self.down(F.gelu(self.up(self.inner_norm(x))))
        return y

    def _attend(self, x: Tensor, layout: Layout) -> Tensor:
        """Padded at the end, where nothing that is real can see it."""
        padded = unpack(self.into(x), layout)  # (B, L, 3H)
        count, longest = padded.shape[:2]
        query, key, value = padded.view(count, longest, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        flat = found.transpose(1, 2).reshape(count * longest, -1)
        return self.out(flat[layout.sequence_ids * longest + layout.positions])  # type: ignore[no-any-return]
