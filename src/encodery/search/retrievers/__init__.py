"""Retrievers: ways to find passages in a store. The folder is the registry: a mode of search is the name of a module.

Shapes: N texts, Q queries, P passages, n tokens of a text.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from encodery.encoders import DOCUMENT, QUERY, TextEncoder
from encodery.encoders.embeddings import TextEmbeddings
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.text_windows import token_offsets
from encodery.search.filters import Condition
from encodery.search.runtime_provenance import check_batch_invariance, provenance_of
from encodery.search.store import Hit, Store


class Retriever(abc.ABC):
    """A way to find passages. `mode` is its name; `from_zero`: a passage that it does not find has the score 0, the
    lowest possible one."""

    mode: ClassVar[str]
    from_zero: ClassVar[bool]

    @abc.abstractmethod
    def encode_query(self, text: str) -> Any:
        """Return what `retrieve` takes. A query that is longer than the model allows is encoded in windows."""

    @abc.abstractmethod
    def retrieve(
        self, store: Store, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        """Return the best `limit` passages for an encoded query, of those that meet all conditions and, if `among` is
        given, have one of its ids."""


class ModelRetriever(Retriever):
    """A retriever by the embeddings of one encoder. `mode` is also the encoder's kind and the field of a `Point` that
    holds the embedding; `embeddings` is the class of the encoder's embeddings."""

    embeddings: ClassVar[type[TextEmbeddings]]

    def __init__(self, encoder: TextEncoder, postprocess: PostProcessing | None = None) -> None:
        self.encoder, self.postprocess = encoder, postprocess
        self.dim, self.fingerprint = encoder.dimension, encoder.model_fingerprint
        self.provenance = provenance_of(encoder)
        prompt = encoder.prompt_text(None, DOCUMENT)
        self.max_length = max(encoder.max_content_tokens - len(self.token_offsets(prompt)), 1)

    def token_offsets(self, text: str) -> np.ndarray:
        """Return the characters [begin, end) of each token, (n, 2)."""
        return token_offsets(self.encoder.tokenizer, text)

    def encode_passages(self, texts: Sequence[str]) -> tuple[list[Any], TextEmbeddings]:
        """Return one value per passage for the field `mode` of its point, before the index's post-processing, and the
        embeddings they come from. The end of a passage that is too long is dropped."""
        embeddings = self.encoder.encode(texts, truncate="right", role=DOCUMENT)
        return [self.value(embeddings.at(index)) for index in range(len(texts))], embeddings

    def encode_query(self, text: str) -> Any:
        return self.value(self.encoder.encode([text], truncate="chunk", role=QUERY).at(0))

    def value(self, embedding: Any) -> Any:
        """Return the embedding of one text as a point stores it."""
        return embedding

    def similarity(self, queries: Sequence[Any], passages: Sequence[Any]) -> np.ndarray:
        """Return the scores (Q, P) of encoded queries with the stored values of passages."""
        return self.embeddings.from_values(queries).similarity(self.embeddings.from_values(passages))

    def with_postprocess(self, postprocess: PostProcessing | None) -> ModelRetriever:
        """Return the retriever for an index with these steps; they apply to dense vectors only."""
        return self

    def check_batch_invariance(self) -> None:
        """Raise `SettingsError` if the embedding of a text depends on the texts that are encoded with it."""
        check_batch_invariance(self.encoder, self.provenance)
