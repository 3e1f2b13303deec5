"""A vector for each token, compared late: each token of the query finds its best match in the text. arXiv:2004.12832

ColBERT's MaxSim: Σ over the query's tokens of the highest cosine with a token of the document. Hidden states go through
one linear layer to a narrow width and to unit length. As in the paper, queries may be filled up with [MASK], which the
model learns to turn into further words to look for, and the documents' punctuation may be left out; neither is done
unless told. Differs from the paper: longer queries stay whole, and the other tokens see the [MASK]s.
Shapes: N texts, T tokens, Q queries, D documents, B sequences, H width of the model, K of a vector.
"""

from __future__ import annotations

import functools
import hashlib
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.machine import device as machine_device
from encodery.base.settings import decode
from encodery.encoders.dense import BATCH_TOKENS, pack_sequences
from encodery.encoders.settings import prompt_of
from encodery.model import golden
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.runtimes.packed_encoder import accelerate
from encodery.tokens.windows import batches_by_length, parse_truncate, split_into_windows

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.tokens.tokenizer import Tokenizer

KEY = "multi_vector"
Role = Literal["query", "document"]
QUERY: Role = "query"
DOCUMENT: Role = "document"


@dataclass(frozen=True, kw_only=True)
class MultiVectorSettings:
    """How a model's token vectors are made; stored with it as `multivector`. `width` K of each; `max_length` and
    `prompts` as for embeddings. `query_length`: shorter queries are filled up with [MASK] to so many tokens, special
    ones included. `skip_punctuation`: documents have no vectors for pieces that are nothing but punctuation."""

    dimension: int = 128
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    query_length: int | None = None
    skip_punctuation: bool = False

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise SettingsError(f"width = {self.dimension}: must be positive.")
        if self.query_length is not None and self.query_length < 1:
            raise SettingsError(f"query_length = {self.query_length}: must be positive.")


@dataclass(frozen=True, eq=False)
class MultiVectorEmbeddings:
    """N texts: the vectors of text i are `rows[ends[i-1]:ends[i]]` (n, K) float32 of unit length; `dropped` (N,) tokens
    that the truncation left out."""

    vectors: np.ndarray
    ends: np.ndarray
    dropped: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def at(self, number: int) -> np.ndarray:
        """The vectors (n, K) of one text."""
        return self.vectors[int(self.ends[number - 1]) if number else 0 : int(self.ends[number])]


class TokenProjection(nn.Module):
    """Hidden states (T, H) → unit vectors (T, K) float32."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, narrow, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        return F.normalize(self.linear(hidden).float(), dim=1)


def max_sim(queries: Tensor, query: Tensor, documents: Tensor, document: Tensor, sizes: tuple[int, int]) -> Tensor:
    """(Q, D) MaxSim of packed token vectors (T, K) and (T', K); `query` (T,) and `document` (T',) say whose each is,
    from 0 to `sizes`."""
    scores = queries @ documents.T
    best = scores.new_full((len(queries), sizes[1]), -torch.inf)
    best = best.scatter_reduce(1, document[None, :].expand_as(scores), scores, "amax")
    return scores.new_zeros(sizes).index_add(0, query, best)


def pad_with_mask(batch: Batch, chosen: Tensor, length: int, mask_id: int) -> Batch:
    """The batch with [MASK] behind those of the `chosen` sequences (B,) bool that are shorter than `length`."""
    lengths = batch.cu_seqlens.long().diff()
    wanted = torch.where(chosen, lengths.clamp(min=length), lengths)
    ends = torch.cat([wanted.new_zeros(1), wanted.cumsum(0)])
    places = ends[:-1][batch.layout.sequence_ids] + batch.layout.positions
    ids = batch.ids.new_full((int(ends[-1]),), mask_id)
    ids[places] = batch.ids
    segment = None if batch.segment is None else batch.segment.new_zeros(len(ids)).index_copy(0, places, batch.segment)
    return Batch(ids, ends.to(torch.int32), int(wanted.max()), segment, batch.extra)


def punctuation_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids of the pieces that stand for nothing but punctuation."""
    numbers = [n for n, piece in enumerate(tokenizer.pieces) if piece and n not in tokenizer.special_ids]
    texts = tokenizer.backend.decode_batch([[n] for n in numbers], skip_special_tokens=False)
    return [n for n, text in zip(numbers, texts, strict=True) if text.strip() and all(map(_marks, text.strip()))]


def _marks(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


class MultiVectorEncoder:
    """A model, its tokenizer, and the projection that was trained with it."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        projection: TokenProjection,
        settings: MultiVectorSettings | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.settings = settings or MultiVectorSettings()
        self.device = torch.device(device) if device is not None else machine_device()
        self.model = model.to(self.device).eval()
        self.projection = projection.to(self.device).eval()
        self.tokenizer = tokenizer
        self.max_length = min(self.settings.max_length or model.settings.max_length, model.settings.max_length)
        check_length(self.settings.query_length, self.max_length)

    @classmethod
    def from_loaded(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> MultiVectorEncoder:
        """The encoder of a loaded model; its golden vectors are computed again. Raises `SettingsError` where the model
        was not trained for token vectors, `ArtifactError` where they drift."""
        from encodery.encoders import storage

        if KEY not in loaded.settings:
            raise SettingsError(f"{loaded.path}: was not trained for a vector a token (recipe colbert).")
        settings = decode(MultiVectorSettings, loaded.settings[KEY], where=f"{loaded.path}: {KEY}")
        kept = loaded.module_state(KEY)
        projection = TokenProjection(loaded.model.settings.width, settings.dimension)
        projection.load_state_dict({name: tensor for name, tensor in kept.items() if name != "golden"})
        encoder = cls(loaded.model, loaded.tokenizer, projection, settings, device)
        storage.verify_golden(loaded, encoder.token_vectors, kept, encoder.device)
        encoder.model = accelerate(encoder.model)
        return encoder

    @property
    def dimension(self) -> int:
        """Width K of a vector."""
        return self.settings.dimension

    @property
    def max_content_tokens(self) -> int:
        """Tokens of a text that are read whole, special tokens not counted."""
        return self.max_length - 2

    @property
    def fingerprint(self) -> str:
        """Differs when any text could get other vectors."""
        digest = hashlib.sha256(f"{self.settings}{self.tokenizer.fingerprint}".encode())
        for module in (self.model.encoder, self.projection):
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return digest.hexdigest()[:32]

    @functools.cached_property
    def skipped_ids(self) -> Tensor:
        """Ids of the pieces that have no vectors in documents."""
        return torch.tensor(
            punctuation_ids(self.tokenizer) if self.settings.skip_punctuation else [], dtype=torch.int64
        )

    def token_vectors(self, batch: Batch) -> Tensor:
        """(T, K) of a packed batch on the model's device."""
        found: Tensor = self.projection(self.model.encoder(batch).hidden)
        return found

    def encode(
        self,
        texts: Sequence[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
    ) -> MultiVectorEmbeddings:
        """The vectors of all texts, in order; those of the windows of a long text (`truncate` = "chunk") one after
        another. They are read as documents, or as queries where `prompt` is "query"; these two names are known whether
        a prompt is stored under them or not. Raises as `Embedder.encode`."""
        stored = prompt in self.settings.prompts or prompt not in (QUERY, DOCUMENT)
        before = prompt_of(self.settings.prompts, prompt) if stored else ""
        ids = self.tokenizer.encode_batch([before + text for text in texts])
        found, dropped = split_into_windows(ids, self.max_content_tokens, parse_truncate(truncate))
        lengths = np.array([len(window.ids) + 2 for window in found], np.int64)
        rows: list[np.ndarray] = [np.zeros((0, self.dimension), np.float32)] * len(found)
        with torch.inference_mode():
            for numbers in batches_by_length(lengths, batch_tokens):
                batch = pack_sequences(
                    [found[number].ids for number in numbers], self.tokenizer.cls_id, self.tokenizer.sep_id
                )
                parts = self._rows(batch, QUERY if prompt == QUERY else DOCUMENT)
                for number, part in zip(numbers, parts, strict=True):
                    rows[number] = part
        owner = np.array([window.text for window in found], np.int64)
        sizes = np.array([len(part) for part in rows], np.int64)
        ends = np.cumsum(np.bincount(owner, weights=sizes, minlength=len(texts)).astype(np.int64))
        return MultiVectorEmbeddings(np.concatenate([np.zeros((0, self.dimension), np.float32), *rows]), ends, dropped)

    def _rows(self, batch: Batch, side: Role) -> list[np.ndarray]:
        """The vectors (n, K) of each sequence of a batch, as a query or as a document."""
        if side == QUERY and self.settings.query_length is not None:
            everything = torch.ones(len(batch), dtype=torch.bool)
            batch = pad_with_mask(batch, everything, self.settings.query_length, self.tokenizer.mask_id)
        found = self.token_vectors(batch.to(self.device)).cpu().numpy()
        parts = np.split(found, batch.cu_seqlens.numpy()[1:-1])
        if side == QUERY or not self.settings.skip_punctuation:
            return parts
        kept = np.split(~torch.isin(batch.ids, self.skipped_ids).numpy(), batch.cu_seqlens.numpy()[1:-1])
        return [part[some] for part, some in zip(parts, kept, strict=True)]


def check_length(query_length: int | None, max_length: int) -> None:
    """Raises `SettingsError` where the model does not take so many tokens."""
    if query_length is not None and query_length > max_length:
        raise SettingsError(f"query_length = {query_length}: the model takes {max_length} tokens.")


def max_sim_matrix(queries: MultiVectorEmbeddings, documents: MultiVectorEmbeddings) -> np.ndarray:
    """(Q, D) MaxSim of every query with every document."""
    found = np.zeros((len(queries), len(documents)), np.float32)
    starts = np.concatenate([[0], documents.ends[:-1]])
    for number in range(len(queries)):
        scores = queries.at(number) @ documents.vectors.T
        found[number] = np.maximum.reduceat(scores, starts, axis=1).sum(axis=0)
    return found


def golden_token_vectors(encoder: MultiVectorEncoder) -> Tensor:
    """Vectors (T, K) of the model's golden sequences."""
    from encodery.encoders import storage

    return storage.golden_vectors(encoder.token_vectors, golden.golden_outputs(encoder.model), encoder.device)
