"""Training of a vector a token: the job of embeddings with MaxSim in place of the product of two vectors.

arXiv:2004.12832. The losses are the same, since they only ask how alike two texts are; a similarity is a mean over the
query's tokens here, so that temperatures mean what they mean elsewhere. Shapes: B examples, C columns, T tokens,
K width of a vector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.settings import decode, encode
from encodery.embed.gradient_cache import run_in_chunks
from encodery.embed.heldout_metrics import EncodedTexts
from encodery.embed.job import EmbedJob
from encodery.embed.losses import LossInputs, Similarity
from encodery.embed.text_pool import TextPool
from encodery.encoders import DOCUMENT, QUERY, Role
from encodery.encoders.embeddings import MultiVectorEmbeddings
from encodery.encoders.multi_vector import (
    KEY,
    MultiVectorEncoder,
    MultiVectorSettings,
    TokenProjection,
    check_length,
    golden_token_vectors,
    max_sim,
    pad_with_mask,
    punctuation_ids,
)
from encodery.model.load import Provenance, save_model
from encodery.model.shape import Batch
from encodery.objectives import LossTerm
from encodery.tokens.shuffle import Integers


@dataclass(frozen=True, eq=False)
class GivenTokens(LossInputs):
    """`vectors`: C of (T, K), the tokens of a column's texts; `whose`: C of (T,), the example of each; `examples` B."""

    whose: tuple[Tensor, ...] = ()
    examples: int = 0

    @property
    def batch_size(self) -> int:
        """See `Given`."""
        return self.examples

    def cross(self, one: int, other: int, kind: Similarity = "cosine") -> Tensor:
        """(B, B) mean over the tokens of `one` of the best match in `other`; the vectors are of unit length."""
        sizes = self.batch_size, self.batch_size
        total = max_sim(self.vectors[one], self.whose[one], self.vectors[other], self.whose[other], sizes)
        return total / torch.bincount(self.whose[one], minlength=self.batch_size)[:, None]

    def pairs(self, one: int, other: int, kind: Similarity = "cosine") -> Tensor:
        """(B,) the same of each example's own two texts."""
        return self.cross(one, other, kind).diagonal()

    def truncate(self, dim: int) -> LossInputs:
        """Is not defined: the beginnings of token vectors are not of unit length."""
        raise SettingsError("loss = 'matryoshka': a model of a vector a token cannot be cut; set its width instead.")


class MultiVectorJob(EmbedJob):
    """See `EmbedJob`. Of the embedding settings only `max_length` and `prompts` count; `token_width` is K. The anchors
    are queries, all other texts documents."""

    def head(self) -> nn.Module:
        """The projection: the model's where it has one of this width, else a new one."""
        check_length(self.settings.query_length, self.model.settings.max_length)
        projection = TokenProjection(self.model.settings.width, self.settings.token_width)
        told = self.loaded.settings.get(KEY)
        if told is not None and decode(MultiVectorSettings, told).dimension == self.settings.token_width:
            kept = self.loaded.module_state(KEY)
            projection.load_state_dict({name: tensor for name, tensor in kept.items() if name != "golden"})
        return projection

    def _tokens(self, batch: Batch) -> Tensor:
        """(T, K)."""
        found: Tensor = self.pooling(self.model.encoder(batch).hidden)
        return found

    def collate(self, indices: Integers, seed: int) -> Batch:
        """As embeddings; the anchors filled up with [MASK]."""
        batch = super().collate(indices, seed)
        if self.settings.query_length is None:
            return batch
        queries = torch.zeros(len(batch), dtype=torch.bool, device=batch.ids.device)
        queries[batch.extra["place"][: len(indices)]] = True
        return pad_with_mask(batch, queries, self.settings.query_length, self.mask_id)

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        """See `Job`."""
        assert self.loss is not None
        columns, examples = batch.extra["texts"].shape
        rows = run_in_chunks(self._tokens, batch, self.train.micro_batch_tokens)
        owner = torch.empty_like(batch.extra["place"])  # text of the step, by columns, at each place of the batch
        owner[batch.extra["place"]] = torch.arange(len(owner), device=owner.device)
        text = owner[batch.layout.sequence_ids]
        mine = [torch.where((text // examples == c) & self._kept(batch, c > 0))[0] for c in range(columns)]
        target, guide, texts = self._told(batch)
        sizes = self._of_all(torch.tensor([examples], device=rows.device))
        before = int(sizes[: self.distributed.rank].sum()) if self.gathers else 0
        given = GivenTokens(
            tuple(self._of_all(rows[some]) for some in mine),
            target,
            texts,
            guide,
            progress=float(batch.extra["progress"]),
            whose=tuple(self._of_all(text[some] % examples + before) for some in mine),
            examples=int(sizes.sum()),
        )
        with torch.autocast(self.device.type, enabled=False):
            return self.loss.terms(given)

    @functools.cached_property
    def _skipped(self) -> Tensor:
        """Ids of the pieces that have no vectors in documents."""
        numbers = punctuation_ids(self.loaded.tokenizer) if self.settings.skip_punctuation else []
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def _kept(self, batch: Batch, document: bool) -> Tensor:
        """(T,) bool: the tokens that have a vector."""
        if document and self.settings.skip_punctuation:
            return ~torch.isin(batch.ids, self._skipped)
        return torch.ones_like(batch.ids, dtype=torch.bool)

    def compared(self, pool: TextPool, texts: np.ndarray) -> EncodedTexts:
        """See `EmbedJob`."""
        return _Tokens(functools.partial(self._read_as, pool), texts)

    @torch.no_grad()
    def _read_as(self, pool: TextPool, texts: np.ndarray, side: Role) -> MultiVectorEmbeddings:
        """The vectors of texts of a pool as queries or as documents."""
        self.module.eval()
        batch, place = pool.batch(texts)
        if side == QUERY and self.settings.query_length is not None:
            everything = torch.ones(len(batch), dtype=torch.bool)
            batch = pad_with_mask(batch, everything, self.settings.query_length, self.mask_id)
        batch = batch.to(self.device)
        rows = run_in_chunks(self._tokens, batch, self.train.micro_batch_tokens)
        self.module.train()
        owner = torch.empty_like(place)
        owner[place] = torch.arange(len(place))
        kept = torch.where(self._kept(batch, side == DOCUMENT))[0].cpu()
        whose = owner[batch.layout.sequence_ids.cpu()][kept]
        ends = torch.bincount(whose, minlength=len(texts)).cumsum(0).numpy()
        ordered = rows.float().cpu()[kept[whose.argsort(stable=True)]].numpy()
        return MultiVectorEmbeddings(ordered, ends, *np.zeros((2, len(texts)), np.int64))

    def write(self, folder: Path, figures: Mapping[str, Any]) -> None:
        """The model with its projection and golden vectors."""
        model, embed = self.result(), self.settings.encoder
        kept = {name: tensor.detach().cpu() for name, tensor in self.pooling.state_dict().items()}
        projection = TokenProjection(model.settings.width, self.settings.token_width)
        projection.load_state_dict(kept)
        told = MultiVectorSettings(
            dimension=self.settings.token_width,
            max_length=embed.max_length,
            prompts={QUERY: "", DOCUMENT: "", **embed.prompts},
            query_length=self.settings.query_length,
            skip_punctuation=self.settings.skip_punctuation,
        )
        kept["golden"] = golden_token_vectors(MultiVectorEncoder(model, self.loaded.tokenizer, projection, told, "cpu"))
        save_model(
            folder,
            model,
            self.loaded.tokenizer_path,
            settings={"recipe": self.recipe, KEY: encode(told)},
            modules={KEY: kept},
            provenance=Provenance.of(self.loaded, keep_origin=True),
            metrics=figures,
            overwrite=True,
        )


@dataclass(frozen=True, eq=False)
class _Tokens:
    """`texts` (P,) of a pool, of which `read` gives the vectors; the first ones compared are queries, the others
    documents."""

    read: Callable[[np.ndarray, Role], MultiVectorEmbeddings]
    texts: np.ndarray

    def cross(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """See `Compared`."""
        return self.read(self.texts[one], QUERY).similarity(self.read(self.texts[other], DOCUMENT))

    def pairs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """See `Compared`."""
        left, right = self.read(self.texts[one], QUERY), self.read(self.texts[other], DOCUMENT)
        scores = [(left.at(n) @ right.at(n).T).max(1).sum() for n in range(len(one))]
        return np.array(scores, np.float32)
