"""Multi-vector embeddings: one vector per token, compared by MaxSim (late interaction). arXiv:2004.12832 (ColBERT)

The losses are those of single vectors, since they only use similarities; here a similarity is a mean over the query's
tokens, so that temperatures mean the same. The anchors are queries, all other texts documents.
Shapes: B examples, C columns, T tokens, K dimensions of a vector, P texts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.machine import derive_seed
from encodery.base.parts import name_of
from encodery.base.settings import check_at_least, decode
from encodery.embed.gradient_cache import run_in_chunks
from encodery.embed.heldout_metrics import EncodedTexts
from encodery.embed.loss_computation import LossComputation
from encodery.embed.loss_inputs import TokenInputs
from encodery.embed.objective_context import ObjectiveContext, evaluation_mode, seeded
from encodery.embed.objective_module import EmbeddingObjectiveModule
from encodery.embed.objectives import EmbeddingObjective
from encodery.embed.objectives._noise import span_noise
from encodery.embed.text_pool import TextPool
from encodery.embed.training_texts import StepInfo, TrainingTexts
from encodery.encoders import DOCUMENT, QUERY, Role
from encodery.encoders.embeddings import MultiVectorEmbeddings
from encodery.encoders.multi_vector import (
    KEY,
    MultiVectorEncoder,
    MultiVectorSettings,
    TokenProjection,
    check_length,
    pad_with_mask,
    punctuation_ids,
)
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers


@dataclass(frozen=True, kw_only=True)
class MultiVector(EmbeddingObjective):
    """Use it when the best search quality of a small encoder matters more than the size of the index.

    `token_dim`: dimensions of a token's vector. `query_length`: shorter queries are padded with [MASK] to this many
    tokens (absent: not padded). `skip_punctuation`: documents have no vectors for punctuation. Of the encoder's
    settings `max_length` and `prompts` are used.

        objective = {is = "multi_vector", token_dim = 128, query_length = 32}
        loss = "infonce"
    """

    token_dim: int = 128
    query_length: int | None = None
    skip_punctuation: bool = False

    def __post_init__(self) -> None:
        check_at_least(self, 1, "token_dim", "query_length")

    @property
    def single_window(self) -> str:
        """See `EmbeddingObjective`."""
        return "it averages one vector per window, and objective = 'multi_vector' has none to average"

    def build(self, context: ObjectiveContext) -> EmbeddingObjectiveModule:
        """See `EmbeddingObjective`."""
        return _MultiVectorModule(self, context)


class _MultiVectorModule(EmbeddingObjectiveModule):
    def __init__(self, settings: MultiVector, context: ObjectiveContext) -> None:
        self.settings, self.context, self.model = settings, context, context.model
        self.loss = LossComputation(context)
        loss = self.loss.loss
        self.in_batch = loss.in_batch
        if loss.needs_vectors or loss.sample_layers(self.model.settings.depth, 0):
            raise SettingsError(
                f"loss = '{name_of(loss)}': needs one vector per text, and objective = 'multi_vector' gives one per "
                "token of the last layer; choose a loss of similarities, such as infonce."
            )
        check_length(settings.query_length, self.model.settings.max_length)
        self.mask_id = context.loaded.tokenizer.mask_id
        self.projection = self._build_projection()
        skipped = punctuation_ids(context.loaded.tokenizer) if settings.skip_punctuation else []
        self.skipped = torch.tensor(skipped, dtype=torch.int64, device=context.device)

    def _build_projection(self) -> TokenProjection:
        """The model's where it has one of these dimensions, else a new one."""
        with seeded(derive_seed(self.context.seed, "pooling")):
            projection = TokenProjection(self.model.settings.width, self.settings.token_dim)
        loaded = self.context.loaded
        table = loaded.settings.get(KEY)
        if table is not None and decode(MultiVectorSettings, table).dimension == self.settings.token_dim:
            state = loaded.module_state(KEY)
            projection.load_state_dict({name: tensor for name, tensor in state.items() if name != "golden"})
        return projection.to(self.context.device)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"projection": self.projection}

    def collate(self, texts: TrainingTexts, examples: Integers, step: StepInfo) -> Batch:
        batch = texts.batch(examples, step, span_noise(self.context, len(examples), step.seed))
        if self.settings.query_length is None:
            return batch
        queries = torch.zeros(len(batch), dtype=torch.bool)
        queries[batch.extra["place"][: len(examples)]] = True
        return pad_with_mask(batch, queries, self.settings.query_length, self.mask_id)

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        return self.loss.counts(batch)

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        columns, examples = batch.extra["texts"].shape
        vectors = run_in_chunks(self._vectors, batch, self.context.micro_batch_tokens)
        text = text_of_sequence(batch.extra["place"])[batch.layout.sequence_ids]
        columns_tokens = [
            torch.where((text // examples == column) & self._has_vector(batch, column > 0))[0]
            for column in range(columns)
        ]
        target, texts, guide = self.loss.labels(batch)
        sizes = self.loss.gather(torch.tensor([examples], device=vectors.device))
        before = int(sizes[: self.loss.distributed.rank].sum()) if self.loss.gathers else 0
        inputs = TokenInputs(
            tuple(self.loss.gather(vectors[tokens]) for tokens in columns_tokens),
            target,
            texts,
            guide,
            progress=float(batch.extra["progress"]),
            owners=tuple(self.loss.gather(text[tokens] % examples + before) for tokens in columns_tokens),
            num_examples=int(sizes.sum()),
        )
        with torch.autocast(self.context.device.type, enabled=False):
            return self.loss.loss.terms(inputs)

    def _vectors(self, batch: Batch) -> Tensor:
        """(T, K)."""
        vectors: Tensor = self.projection(self.model.encoder(batch).hidden)
        return vectors

    def _has_vector(self, batch: Batch, document: bool) -> Tensor:
        """(T,) bool: the tokens that have a vector."""
        if document and self.settings.skip_punctuation:
            return ~torch.isin(batch.ids, self.skipped)
        return torch.ones_like(batch.ids, dtype=torch.bool)

    def compare(self, pool: TextPool, texts: np.ndarray) -> EncodedTexts:
        return _TokenTexts(functools.partial(self._encode, pool), texts)

    @torch.no_grad()
    def _encode(self, pool: TextPool, texts: np.ndarray, role: Role) -> MultiVectorEmbeddings:
        """The vectors of texts of a pool as queries or as documents."""
        with evaluation_mode([self.model, self.projection]):
            batch, place = pool.batch(texts)
            if role == QUERY and self.settings.query_length is not None:
                everything = torch.ones(len(batch), dtype=torch.bool)
                batch = pad_with_mask(batch, everything, self.settings.query_length, self.mask_id)
            batch = batch.to(self.context.device)
            vectors = run_in_chunks(self._vectors, batch, self.context.micro_batch_tokens)
        kept = torch.where(self._has_vector(batch, role == DOCUMENT))[0].cpu()
        owner = text_of_sequence(place)[batch.layout.sequence_ids.cpu()][kept]
        ends = torch.bincount(owner, minlength=len(texts)).cumsum(0).numpy()
        ordered = vectors.float().cpu()[kept[owner.argsort(stable=True)]].numpy()
        none = np.zeros(len(texts), np.int64)
        return MultiVectorEmbeddings(ordered, ends, none, none)

    def encoder(self, model: Model, texts: TrainingTexts) -> MultiVectorEncoder:
        encoder = self.context.encoder
        projection = TokenProjection(model.settings.width, self.settings.token_dim)
        state = self.projection.state_dict()
        projection.load_state_dict({name: tensor.detach().cpu() for name, tensor in state.items()})
        settings = MultiVectorSettings(
            dimension=self.settings.token_dim,
            max_length=encoder.max_length,
            prompts={QUERY: "", DOCUMENT: "", **encoder.prompts},
            query_length=self.settings.query_length,
            skip_punctuation=self.settings.skip_punctuation,
        )
        return MultiVectorEncoder(model, self.context.loaded.tokenizer, projection, settings, "cpu")


def text_of_sequence(place: Tensor) -> Tensor:
    """Return the text of each sequence of a batch, from the place of each text."""
    text = torch.empty_like(place)
    text[place] = torch.arange(len(place), device=place.device)
    return text


@dataclass(frozen=True, eq=False)
class _TokenTexts:
    """`texts` (P,) of a pool, of which `encode` gives the vectors; of those compared the first are queries, the second
    documents."""

    encode: Callable[[np.ndarray, Role], MultiVectorEmbeddings]
    texts: np.ndarray

    def cross(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See `EncodedTexts`."""
        return self.encode(self.texts[first], QUERY).similarity(self.encode(self.texts[second], DOCUMENT))

    def pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See `EncodedTexts`."""
        queries, documents = self.encode(self.texts[first], QUERY), self.encode(self.texts[second], DOCUMENT)
        scores = [(queries.at(n) @ documents.at(n).T).max(1).sum() for n in range(len(first))]
        return np.array(scores, np.float32)
