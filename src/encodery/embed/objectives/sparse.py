"""Learned sparse embeddings: a weight for each term of the vocabulary, most of them zero. arXiv:2107.05720 (SPLADE)

The masked-language-model head takes the place of pooling (`encoders/sparse.py`). Losses compare by dot product
(`similarity = "dot"`) and are wrapped in `flops`, which keeps the embeddings sparse; with `terms = "tokens"` they are
sparse already. With `query_encoding = "bow"` the anchors are bags of tokens, and the model learns from the other texts
alone (arXiv:2108.08513).

Masked language modelling does not determine where a head's scores lie, since a softmax sees differences only. Where
nearly all are below 0, a text has no terms and nothing would be learned. The bias of such a head, which mostly holds
token frequencies, is replaced by one number for all terms, with which a text has as many terms as tokens at the start.
A head that gives few terms may have learned to.
Shapes: B examples, C columns, S sequences, V vocabulary, P texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.machine import derive_seed
from encodery.embed.gradient_cache import run_in_chunks
from encodery.embed.heldout_metrics import EncodedTexts, EncodedVectors
from encodery.embed.loss_computation import LossComputation
from encodery.embed.loss_inputs import VectorInputs
from encodery.embed.objective_context import ObjectiveContext, encode_pool, evaluation_mode, seeded
from encodery.embed.objective_module import EmbeddingObjectiveModule
from encodery.embed.objectives import EmbeddingObjective
from encodery.embed.objectives._noise import span_noise
from encodery.embed.text_pool import TextPool
from encodery.embed.training_texts import StepInfo, TrainingTexts, by_column
from encodery.encoders import DOCUMENT, QUERY
from encodery.encoders.sparse import (
    KEY,
    QueryEncoding,
    SparseEncoder,
    SparseSettings,
    SparseTerms,
    TermHead,
    check_head,
    regular_tokens,
    term_weights,
    token_counts,
    vocabulary_scores,
    vocabulary_weights,
)
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers

SAMPLE_TEXTS = 64  # from which it is read where a head's scores lie
MIN_TERMS = 0.1  # terms of a text per token, below which a head's bias is replaced
RESCALED = (
    "At the start the head gives a text {terms:.1f} terms where it has {tokens:.0f} tokens, too few to learn from: its "
    "bias is replaced, so that a text has as many terms as tokens."
)


@dataclass(frozen=True, kw_only=True)
class Sparse(EmbeddingObjective):
    """Use it when texts are to be searched with an inverted index, by terms that the model weighs.

    `terms`: "vocabulary" gives any term a weight, "tokens" only the text's own. `query_encoding`: "encoder" runs the
    model on queries, "bow" counts their tokens. Of the encoder's settings `max_length` and `prompts` are used.

        objective = "sparse"
        loss = {is = "flops", loss = {is = "infonce", similarity = "dot", temperature = 1.0}}
    """

    terms: SparseTerms = "vocabulary"
    query_encoding: QueryEncoding = "encoder"

    @property
    def single_window(self) -> str:
        """See `EmbeddingObjective`."""
        return "it averages one vector per window, and objective = 'sparse' has none to average"

    def build(self, context: ObjectiveContext) -> EmbeddingObjectiveModule:
        """See `EmbeddingObjective`. Raises `SettingsError` if the model lacks the head that computes the weights."""
        return _SparseModule(self, context)


class _SparseModule(EmbeddingObjectiveModule):
    def __init__(self, settings: Sparse, context: ObjectiveContext) -> None:
        self.settings, self.context, self.model = settings, context, context.model
        self.loss = LossComputation(context)
        self.in_batch = self.loss.loss.in_batch
        if self.loss.loss.sample_layers(self.model.settings.depth, 0):
            raise SettingsError("Sparse embeddings are made from the last layer alone; choose another loss.")
        self.head = self._build_head()
        self.regular = regular_tokens(context.loaded.tokenizer, self.model.settings.vocab_size).to(context.device)

    def _build_head(self) -> TermHead | None:
        """None where the model's own head gives the weights, which is trained with it and not adapted."""
        if self.settings.terms == "vocabulary":
            check_head(self.model, "vocabulary", None)
            self.model.heads.requires_grad_(self.context.trains_whole_model)
            return None
        with seeded(derive_seed(self.context.seed, "pooling")):
            head = TermHead(self.model.settings.width)
        loaded = self.context.loaded
        if loaded.settings.get(KEY, {}).get("terms") == "tokens":
            state = loaded.module_state(KEY)
            head.load_state_dict({name: tensor for name, tensor in state.items() if name != "golden"})
        return head.to(self.context.device)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {} if self.head is None else {"term_head": self.head}

    @torch.no_grad()
    def fit(self, texts: TrainingTexts) -> list[str]:
        """Replace the bias of a head with which texts have hardly any terms."""
        bias = None if self.head is not None else self.model.mlm_head.decoder(self.model.encoder)[1]
        if bias is None:
            return []
        pool = texts.pool
        draw = np.random.default_rng(derive_seed(self.context.seed, "wake"))
        sample = np.sort(draw.permutation(len(pool.texts))[:SAMPLE_TEXTS])
        with evaluation_mode([self.model]):
            batches = (pool.batch(sample[i : i + 1])[0].to(self.context.device) for i in range(len(sample)))
            scores = torch.cat([vocabulary_scores(self.model, batch) for batch in batches])
        tokens, terms = float(pool.lengths[sample].mean()), float((scores > 0).sum(1).float().mean())
        if terms >= MIN_TERMS * tokens:
            return []
        unbiased = (scores - bias).flatten()
        kept = max(min(round(tokens * len(sample)), unbiased.numel() - 1), 1)
        bias.fill_(-float(unbiased.kthvalue(unbiased.numel() - kept).values))
        return [RESCALED.format(terms=terms, tokens=tokens)]

    def collate(self, texts: TrainingTexts, examples: Integers, step: StepInfo) -> Batch:
        return texts.batch(examples, step, span_noise(self.context, len(examples), step.seed))

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        return self.loss.counts(batch)

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        vectors = run_in_chunks(lambda part: self._vectors(part)[:, None], batch, self.context.micro_batch_tokens)
        vectors = by_column(vectors, batch, ())
        with torch.autocast(self.context.device.type, enabled=False):
            return self.loss.loss.terms(self._inputs(self.loss.gather(vectors.float(), 1), batch))

    def _vectors(self, batch: Batch) -> Tensor:
        """(S, V)."""
        if self.head is None:
            return vocabulary_weights(self.model, batch)
        return term_weights(self.model, self.head, batch, self.regular)

    def _inputs(self, vectors: Tensor, batch: Batch) -> VectorInputs:
        """What the loss sees of vectors (C, B, 1, V); the anchors are bags of tokens where queries are."""
        if self.settings.query_encoding == "bow":
            counts = token_counts(batch, self.model.settings.vocab_size, self.regular)
            anchors = counts[batch.extra["place"][: batch.extra["texts"].shape[1]]]
            vectors = torch.cat([self.loss.gather(anchors)[None, :, None], vectors[1:]])
        return self.loss.vector_inputs(vectors, batch)

    def compare(self, pool: TextPool, texts: np.ndarray) -> EncodedTexts:
        modules = [self.model] if self.head is None else [self.model, self.head]
        with evaluation_mode(modules):
            weights = encode_pool(self._vectors, pool, texts, self.context)
        if self.settings.query_encoding == "encoder":
            return EncodedVectors(weights)
        regular = self.regular.cpu().numpy()
        bags = [pool.sequence(int(text)) for text in texts]
        return _BagQueries(weights, [bag[regular[bag]].astype(np.int64) for bag in bags])

    def encoder(self, model: Model, texts: TrainingTexts) -> SparseEncoder:
        head, encoder = None, self.context.encoder
        if self.head is not None:
            head = TermHead(model.settings.width)
            head.load_state_dict({name: tensor.detach().cpu() for name, tensor in self.head.state_dict().items()})
        roles: dict[str, str] = {QUERY: "", DOCUMENT: ""} if self.settings.query_encoding == "bow" else {}
        settings = SparseSettings(
            terms=self.settings.terms,
            query_encoding=self.settings.query_encoding,
            max_length=encoder.max_length,
            prompts={**roles, **encoder.prompts},
        )
        return SparseEncoder(model, self.context.loaded.tokenizer, settings, "cpu", head)


@dataclass(frozen=True, eq=False)
class _BagQueries:
    """Texts as documents with `weights` (P, V), and as queries: their tokens `bags` (P of (n,))."""

    weights: np.ndarray
    bags: list[np.ndarray]

    def cross(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See `EncodedTexts`."""
        documents = self.weights[second]
        scores: np.ndarray = np.stack([documents[:, self.bags[int(text)]].sum(1) for text in first])
        return scores

    def pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See `EncodedTexts`."""
        scores = [self.weights[int(b)][self.bags[int(a)]].sum() for a, b in zip(first, second, strict=True)]
        return np.array(scores, np.float32)
