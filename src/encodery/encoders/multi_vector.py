"""Multi-vector embeddings: one vector for each token, compared by late interaction. arXiv:2004.12832 (ColBERT)

MaxSim sums, over the query's tokens, the highest cosine with a token of the document. Hidden states pass through one
linear layer to a small dimension and are scaled to unit length. As in the paper, queries can be padded with [MASK],
which the model learns to use as further query terms, and the punctuation of documents can be left out; both are off by
default. Differences from the paper: longer queries are not cut, and the other tokens attend to the [MASK]s.
Shapes: N texts, T tokens, Q queries, D documents, B sequences, H width of the model, K dimension of a vector.
"""

from __future__ import annotations

import functools
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.settings import check_at_least, decode, encode
from encodery.encoders import BATCH_TOKENS, DOCUMENT, QUERY, Role, storage
from encodery.encoders.embeddings import MultiVectorEmbeddings
from encodery.encoders.model_encoder import ModelEncoder, StoredEncoder
from encodery.encoders.packing import pack_sequences
from encodery.encoders.text_windows import TextWindows
from encodery.model import golden
from encodery.model.digest import weights_digest
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.runtimes.packed_encoder import accelerate
from encodery.tokens.windows import batches_by_length

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.tokens.tokenizer import Tokenizer

KEY = "multi_vector"


@dataclass(frozen=True, kw_only=True)
class MultiVectorSettings:
    """How a model's token vectors are computed; stored with the model as `multi_vector`. `dimension` K of each vector;
    `max_length` and `prompts` as for dense embeddings. `query_length`: shorter queries are padded with [MASK] to this
    number of tokens, special tokens included. `skip_punctuation`: documents get no vectors for tokens that are only
    punctuation."""

    dimension: int = 128
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    query_length: int | None = None
    skip_punctuation: bool = False

    def __post_init__(self) -> None:
        check_at_least(self, 1, "dimension", "query_length")


class TokenProjection(nn.Module):
    """Hidden states (T, H) → unit vectors (T, K) float32."""

    def __init__(self, width: int, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dimension, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        return F.normalize(self.linear(hidden).float(), dim=1)


class MultiVectorEncoder(ModelEncoder):
    """A model with its tokenizer and the projection that was trained with it."""

    kind: ClassVar[str] = "multi_vector"
    symmetric: ClassVar[bool] = False

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        projection: TokenProjection,
        settings: MultiVectorSettings | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.settings = settings or MultiVectorSettings()
        super().__init__(model, tokenizer, self.settings.max_length, device)
        self.projection = projection.to(self.device).eval()
        check_length(self.settings.query_length, self.max_length)

    @classmethod
    def from_loaded(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> MultiVectorEncoder:
        """See `ModelEncoder`."""
        if KEY not in loaded.settings:
            raise SettingsError(f"{loaded.path}: was not trained for multi-vector embeddings (recipe colbert).")
        settings = decode(MultiVectorSettings, loaded.settings[KEY], where=f"{loaded.path}: {KEY}")
        tensors = loaded.module_state(KEY)
        projection = TokenProjection(loaded.model.settings.width, settings.dimension)
        projection.load_state_dict({name: tensor for name, tensor in tensors.items() if name != "golden"})
        encoder = cls(loaded.model, loaded.tokenizer, projection, settings, device)
        storage.verify_golden(loaded, encoder.token_vectors, tensors, encoder.device)
        encoder.model = accelerate(encoder.model)
        return encoder

    def stored(self) -> StoredEncoder:
        """See `ModelEncoder`."""
        tensors = {name: tensor.detach().cpu() for name, tensor in self.projection.state_dict().items()}
        tensors["golden"] = golden_token_vectors(self)
        return StoredEncoder({KEY: encode(self.settings)}, {KEY: tensors})

    @property
    def prompts(self) -> Mapping[str, str]:
        """See `TextEncoder`."""
        return self.settings.prompts

    @property
    def dimension(self) -> int:
        """K."""
        return self.settings.dimension

    @property
    def fingerprint(self) -> str:
        """See `TextEncoder`."""
        states = self.model.encoder.state_dict(), self.projection.state_dict()
        return weights_digest(*states, prefix=f"{self.settings}{self.tokenizer.fingerprint}".encode())

    @functools.cached_property
    def skipped_ids(self) -> Tensor:
        """Ids of the tokens that get no vectors in documents."""
        return torch.tensor(
            punctuation_ids(self.tokenizer) if self.settings.skip_punctuation else [], dtype=torch.int64
        )

    def token_vectors(self, batch: Batch) -> Tensor:
        """The vectors (T, K) of a packed batch on the model's device."""
        vectors: Tensor = self.projection(self.model.encoder(batch).hidden)
        return vectors

    def encode(
        self,
        texts: Sequence[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
        progress: Callable[[int], None] | None = None,
        *,
        role: Role | None = None,
    ) -> MultiVectorEmbeddings:
        """See `TextEncoder`. Texts are read as queries if `role` or `prompt` is "query", else as documents. The vectors
        of a text in several windows (`truncate` = "chunk") follow each other, window by window."""
        before = self.prompt_text(prompt, role)
        windows = TextWindows.from_texts(texts, self.tokenizer, self.max_content_tokens, truncate, before)
        vectors: list[np.ndarray] = [np.zeros((0, self.dimension), np.float32)] * len(windows)
        with torch.inference_mode():
            for numbers in batches_by_length(windows.lengths, batch_tokens):
                sequences = [windows.ids[number] for number in numbers]
                batch = pack_sequences(sequences, self.tokenizer.cls_id, self.tokenizer.sep_id)
                parts = self._vectors_of(batch, QUERY if QUERY in (role, prompt) else DOCUMENT)
                for number, part in zip(numbers, parts, strict=True):
                    vectors[number] = part
                if progress is not None:
                    progress(len(numbers))
        sizes = np.array([len(part) for part in vectors], np.int64)
        ends = np.cumsum(np.bincount(windows.owner, weights=sizes, minlength=len(texts)).astype(np.int64))
        joined = np.concatenate([np.zeros((0, self.dimension), np.float32), *vectors])
        return MultiVectorEmbeddings(joined, ends, windows.tokens, windows.dropped)

    def _vectors_of(self, batch: Batch, role: Role) -> list[np.ndarray]:
        """The vectors (n, K) of each sequence of a batch, read as a query or as a document."""
        if role == QUERY and self.settings.query_length is not None:
            everything = torch.ones(len(batch), dtype=torch.bool)
            batch = pad_with_mask(batch, everything, self.settings.query_length, self.tokenizer.mask_id)
        vectors = self.token_vectors(batch.to(self.device)).cpu().numpy()
        parts = np.split(vectors, batch.cu_seqlens.numpy()[1:-1])
        if role == QUERY or not self.settings.skip_punctuation:
            return parts
        kept = np.split(~torch.isin(batch.ids, self.skipped_ids).numpy(), batch.cu_seqlens.numpy()[1:-1])
        return [part[mask] for part, mask in zip(parts, kept, strict=True)]


def max_sim(queries: Tensor, query: Tensor, documents: Tensor, document: Tensor, sizes: tuple[int, int]) -> Tensor:
    """MaxSim (Q, D) of packed token vectors (T, K) and (T', K); `query` (T,) and `document` (T',) number the text
    that each token belongs to, below `sizes`."""
    scores = queries @ documents.T
    best = scores.new_full((len(queries), sizes[1]), -torch.inf)
    best = best.scatter_reduce(1, document[None, :].expand_as(scores), scores, "amax")
    return scores.new_zeros(sizes).index_add(0, query, best)


def pad_with_mask(batch: Batch, selected: Tensor, length: int, mask_id: int) -> Batch:
    """The batch with [MASK] after those of the `selected` sequences (B,) bool that are shorter than `length`."""
    lengths = batch.cu_seqlens.long().diff()
    padded = torch.where(selected, lengths.clamp(min=length), lengths)
    ends = torch.cat([padded.new_zeros(1), padded.cumsum(0)])
    targets = ends[:-1][batch.layout.sequence_ids] + batch.layout.positions
    ids = batch.ids.new_full((int(ends[-1]),), mask_id)
    ids[targets] = batch.ids
    segment = None if batch.segment is None else batch.segment.new_zeros(len(ids)).index_copy(0, targets, batch.segment)
    return Batch(ids, ends.to(torch.int32), int(padded.max()), segment, batch.extra, batch.reach, batch.prefix)


def punctuation_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids of the tokens that are only punctuation."""
    numbers = [n for n, piece in enumerate(tokenizer.pieces) if piece and n not in tokenizer.special_ids]
    texts = tokenizer.backend.decode_batch([[n] for n in numbers], skip_special_tokens=False)
    is_punctuation = [bool(text.strip()) and all(map(_is_punctuation, text.strip())) for text in texts]
    return [n for n, matches in zip(numbers, is_punctuation, strict=True) if matches]


def check_length(query_length: int | None, max_length: int) -> None:
    """Raises `SettingsError` if the model cannot read queries of that length."""
    if query_length is not None and query_length > max_length:
        raise SettingsError(f"query_length = {query_length}: the model reads at most {max_length} tokens.")


def golden_token_vectors(encoder: MultiVectorEncoder) -> Tensor:
    """Vectors (T, K) of the model's golden sequences."""
    return storage.golden_vectors(encoder.token_vectors, golden.golden_outputs(encoder.model), encoder.device)


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
