"""Embeddings of sentences from which it can be told how neighbouring sentences belong together. arXiv:1705.00557

DiscSent's three tasks over windows of neighbouring sentences of raw documents, each encoded once and by itself: ORDER,
whether two neighbours were swapped; NEXT, which of the sentences after the first few comes next; CONJUNCTION, which
group of conjunctions the one belongs to that joined a sentence to the one before it, and was removed. Differs from the
paper: one window serves all three tasks, conjunctions are removed in all of them, and NEXT compares by cosine, as
embeddings are in use. The classifiers are dropped at the end.
Shapes: B windows, C sentences of a window, K width of a vector, G groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.machine import derive_seed
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.gradient_cache import run_in_chunks
from encodery.embed.heldout_metrics import EncodedTexts
from encodery.embed.losses import Loss
from encodery.embed.objective_context import ObjectiveContext, seeded
from encodery.embed.objective_module import EmbeddingObjectiveModule
from encodery.embed.objectives import EmbeddingObjective
from encodery.embed.objectives._dense_head import DenseHead
from encodery.embed.objectives._discourse_classifiers import DiscourseClassifiers, pair_features
from encodery.embed.objectives._noise import span_noise
from encodery.embed.sentences import sentence_windows
from encodery.embed.text_pool import TextPool
from encodery.embed.training_texts import StepInfo, TrainingTexts
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers

LR_SCALE = 3.0  # How many times as fast as the model the classifiers learn.
TEMPERATURE = 0.1


@dataclass(frozen=True, kw_only=True)
class Discourse(EmbeddingObjective):
    """Use it to learn embeddings of sentences from raw documents, without labels.

    `window`: sentences of an example; `context`: how many of them are given to tell which of the others comes next;
    `rows`: a row of the data is a whole document, or one sentence of a single document.

        objective = {is = "discourse", window = 8, context = 3}
    """

    window: int = 8
    context: int = 3
    rows: Literal["documents", "sentences"] = "documents"

    def __post_init__(self) -> None:
        if not 1 <= self.context <= self.window - 2:
            raise SettingsError(
                f"context = {self.context}, window = {self.window}: must be 1 <= context <= window - 2, so that at "
                "least two sentences are left to choose from."
            )

    @property
    def uses_loss(self) -> bool:
        """See `EmbeddingObjective`."""
        return False

    @property
    def single_window(self) -> str:
        """See `EmbeddingObjective`."""
        return "discourse learns from sentences, which are one sequence each"

    def arrange(self, examples: EmbeddingExamples, loss: Loss | None) -> tuple[EmbeddingExamples, list[str]]:
        """See `EmbeddingObjective`. Examples are windows of sentences, without the conjunctions they began with."""
        made = sentence_windows(examples, self.window, self.rows)
        return made.data, [made.note]

    def roles(self, columns: int) -> Sequence[str]:
        """See `EmbeddingObjective`. Every sentence of a window has the same role."""
        return ["query"] * columns

    def build(self, context: ObjectiveContext) -> EmbeddingObjectiveModule:
        """See `EmbeddingObjective`."""
        return _DiscourseModule(self, context)


class _DiscourseModule(EmbeddingObjectiveModule):
    def __init__(self, settings: Discourse, context: ObjectiveContext) -> None:
        self.settings, self.context, self.head = settings, context, DenseHead(context)
        with seeded(derive_seed(context.seed, "classifiers")):
            self.classifiers = DiscourseClassifiers(self._width()).to(context.device)

    @torch.no_grad()
    def _width(self) -> int:
        tokenizer = self.context.loaded.tokenizer
        batch = Batch.from_sequences([[tokenizer.cls_id, tokenizer.sep_id]])
        return int(self.head.last_vectors(batch.to(self.context.device)).shape[-1])

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"pooling": self.head.pooling, "classifiers": self.classifiers}

    def collate(self, texts: TrainingTexts, examples: Integers, step: StepInfo) -> Batch:
        """The windows' sentences by column; in `extra` also `swapped` (C - 1, B): which neighbours are given in the
        wrong order."""
        batch = texts.batch(examples, step, span_noise(self.context, len(examples), step.seed))
        draw = np.random.default_rng(derive_seed(step.seed, "order"))
        swapped = torch.from_numpy(draw.random((self.settings.window - 1, len(examples))) < 0.5)
        return dataclasses.replace(batch, extra={**batch.extra, "swapped": swapped})

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        size, windows = batch.extra["texts"].shape
        marked = (batch.extra["target"][:, 1:] >= 0).sum()
        return {"order": (size - 1) * windows, "next": windows, "conjunction": marked}

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        size, windows = batch.extra["texts"].shape
        vectors = run_in_chunks(self.head.last_vectors, batch, self.context.micro_batch_tokens)
        vectors = F.normalize(vectors[batch.extra["place"]].view(size, windows, -1).float(), dim=-1)
        with torch.autocast(self.context.device.type, enabled=False):
            return {
                **self._order(vectors, batch.extra["swapped"]),
                **self._next(vectors, batch.extra["texts"]),
                **self._conjunction(vectors, batch.extra["target"]),
            }

    def _order(self, vectors: Tensor, swapped: Tensor) -> dict[str, LossTerm]:
        first, second = vectors[:-1], vectors[1:]
        wrong = swapped[..., None]
        features = pair_features(torch.where(wrong, second, first), torch.where(wrong, first, second))
        logits = self.classifiers.order(features)
        total = F.binary_cross_entropy_with_logits(logits[..., 0] * LR_SCALE, swapped.float(), reduction="sum")
        correct = ((logits[..., 0] > 0) == swapped).sum()
        return {
            "order": LossTerm(total, swapped.numel()),
            "order_accuracy": LossTerm(correct, swapped.numel(), 0.0),
        }

    def _next(self, vectors: Tensor, texts: Tensor) -> dict[str, LossTerm]:
        """A candidate with the same text as the sentence that comes next is not a negative."""
        first = self.settings.context
        expected = F.normalize(self.classifiers.following(vectors[:first].mean(0)), dim=-1)
        scores = torch.einsum("bk,cbk->bc", expected, vectors[first:]) / TEMPERATURE
        same = (texts[first:] == texts[first]).T.clone()
        same[:, 0] = False
        scores = scores.masked_fill(same, -torch.inf)
        total = (scores.logsumexp(1) - scores[:, 0]).sum()
        correct = (scores.argmax(1) == 0).sum()
        return {"next": LossTerm(total, len(scores)), "next_accuracy": LossTerm(correct, len(scores), 0.0)}

    def _conjunction(self, vectors: Tensor, groups: Tensor) -> dict[str, LossTerm]:
        marked = groups[:, 1:].T >= 0
        logits = self.classifiers.conjunction(pair_features(vectors[:-1][marked], vectors[1:][marked])) * LR_SCALE
        labels = groups[:, 1:].T[marked]
        total = F.cross_entropy(logits, labels, reduction="sum")
        correct = (logits.argmax(1) == labels).sum()
        return {
            "conjunction": LossTerm(total, len(labels)),
            "conjunction_accuracy": LossTerm(correct, len(labels), 0.0),
        }

    def compare(self, pool: TextPool, texts: np.ndarray) -> EncodedTexts:
        return self.head.compare(pool, texts)

    def encoder(self, model: Model, texts: TrainingTexts) -> SingleVectorEncoder:
        return self.head.encoder(model, texts)
