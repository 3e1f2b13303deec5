"""Sentence vectors that must tell how neighbouring sentences belong together, from raw documents. arXiv:1705.00557

DiscSent's three tasks over windows of neighbouring sentences, each encoded once and by itself: ORDER, whether two
neighbours were swapped; NEXT, which of the sentences after the first few follows at once; CONJUNCTION, of which kind
the word was that joined a sentence to the one before it, and was taken away. Differs from the paper: one window serves
all three tasks, conjunctions are taken away in all of them, and NEXT compares by cosine, as vectors are in use. The
classifiers fall off at the end. Shapes: B windows, C sentences of a window, K width of a vector, G groups.
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
from encodery.embed.data import EmbeddingExamples
from encodery.embed.gradient_cache import run_in_chunks
from encodery.embed.job import EmbedJob, longest_of, prompts_of
from encodery.embed.sentences import GROUPS, sentence_windows
from encodery.embed.text_pool import TextPool
from encodery.embed.training import Discourse
from encodery.model.shape import Batch
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers

RATE = 3.0  # How much faster than the model the classifiers learn.
STD = 0.005  # Of their new weights: small, so that they begin without an opinion.
TEMPERATURE = 0.1


class DiscourseJob(EmbedJob):
    """See `EmbedJob`; the data are documents, or sentences in order."""

    in_batch = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.train.seed, "classifiers"))
            self.classifiers = DiscourseClassifiers(self._width()).to(self.device)
        kept = {"model": self.model, "pooling": self.pooling, "classifiers": self.classifiers}
        self.module = nn.ModuleDict(kept)

    @property
    def discourse(self) -> Discourse:
        """The settings of the tasks."""
        assert self.settings.discourse is not None
        return self.settings.discourse

    def arranged(self, train: EmbeddingExamples) -> EmbeddingExamples:
        """Windows of sentences, without the conjunctions they began with."""
        return sentence_windows(train, self.discourse).data

    def collate(self, indices: Integers, seed: int) -> Batch:
        """The windows' sentences by column; `swapped` (C - 1, B) in extra: which neighbours are shown in the wrong
        order."""
        batch = super().collate(indices, seed)
        draw = np.random.default_rng(derive_seed(seed, "order"))
        swapped = torch.from_numpy(draw.random((self.discourse.window - 1, len(indices))) < 0.5)
        return dataclasses.replace(batch, extra={**batch.extra, "swapped": swapped.to(self.device)})

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        """See `Job`."""
        size, windows = batch.extra["texts"].shape
        marked = (batch.extra["target"][:, 1:] >= 0).sum()
        return {"order": (size - 1) * windows, "next": windows, "conjunction": marked}

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        """See `Job`. Terms of weight 0 count the right answers."""
        size, windows = batch.extra["texts"].shape
        found = run_in_chunks(lambda part: self._vectors(part, [])[:, 0], batch, self.train.micro_batch_tokens)
        vectors = F.normalize(found[batch.extra["place"]].view(size, windows, -1).float(), dim=-1)
        with torch.autocast(self.device.type, enabled=False):
            return {
                **self._order(vectors, batch.extra["swapped"]),
                **self._next(vectors, batch.extra["texts"]),
                **self._conjunction(vectors, batch.extra["target"]),
            }

    def _order(self, vectors: Tensor, swapped: Tensor) -> dict[str, LossTerm]:
        one, other = vectors[:-1], vectors[1:]
        wrong = swapped[..., None]
        logits = self.classifiers.order(pair_features(torch.where(wrong, other, one), torch.where(wrong, one, other)))
        total = F.binary_cross_entropy_with_logits(logits[..., 0] * RATE, swapped.float(), reduction="sum")
        right = ((logits[..., 0] > 0) == swapped).sum()
        return {"order": LossTerm(total, swapped.numel()), "ordered": LossTerm(right, swapped.numel(), 0.0)}

    def _next(self, vectors: Tensor, texts: Tensor) -> dict[str, LossTerm]:
        """A candidate that reads as the one that follows is no wrong answer."""
        first = self.discourse.context
        asked = F.normalize(self.classifiers.following(vectors[:first].mean(0)), dim=-1)
        scores = torch.einsum("bk,cbk->bc", asked, vectors[first:]) / TEMPERATURE
        same = (texts[first:] == texts[first]).T.clone()
        same[:, 0] = False
        scores = scores.masked_fill(same, -torch.inf)
        total = (scores.logsumexp(1) - scores[:, 0]).sum()
        right = (scores.argmax(1) == 0).sum()
        return {"next": LossTerm(total, len(scores)), "followed": LossTerm(right, len(scores), 0.0)}

    def _conjunction(self, vectors: Tensor, groups: Tensor) -> dict[str, LossTerm]:
        marked = groups[:, 1:].T >= 0
        logits = self.classifiers.conjunction(pair_features(vectors[:-1][marked], vectors[1:][marked])) * RATE
        told = groups[:, 1:].T[marked]
        total = F.cross_entropy(logits, told, reduction="sum")
        right = (logits.argmax(1) == told).sum()
        return {"conjunction": LossTerm(total, len(told)), "joined": LossTerm(right, len(told), 0.0)}

    def _read(self, data: EmbeddingExamples) -> tuple[TextPool, Integers]:
        """Every sentence of a window is read with the prompt of the first."""
        if data.target is None or data.target.ndim < 2 or data.target_kind != "label":
            return super()._read(data)
        prompts = prompts_of(self.settings, 1) * len(data.columns)
        longest = longest_of(self.settings.encoder, self.model.settings.max_length)
        return TextPool.from_columns(data.columns, prompts, self.loaded.tokenizer, longest, self.settings.truncate)

    @torch.no_grad()
    def _width(self) -> int:
        one = Batch.from_sequences([[self.loaded.tokenizer.cls_id, self.loaded.tokenizer.sep_id]])
        return int(self._vectors(one.to(self.device), []).shape[-1])


class DiscourseClassifiers(nn.Module):
    """`order`: two vectors → one number; `conjunction`: two vectors → G; `following`: what a vector expects next."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.order, self.conjunction = nn.Linear(4 * width, 1), nn.Linear(4 * width, len(GROUPS))
        self.following = nn.Linear(width, width, bias=False)
        for layer in (self.order, self.conjunction):
            nn.init.normal_(layer.weight, std=STD)
            nn.init.zeros_(layer.bias)
        nn.init.eye_(self.following.weight)


def pair_features(one: Tensor, other: Tensor) -> Tensor:
    """(…, 4K) two unit vectors beside their product and difference, each number of about size 1."""
    scale = one.shape[-1] ** 0.5
    return torch.cat([one * scale, other * scale, one * other * scale**2, (one - other) * scale], dim=-1)
