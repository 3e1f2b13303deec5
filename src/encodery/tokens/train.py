"""Trains a tokenizer on a corpus, as an artifact of kind `tokenizer`. Memory is bounded by the sample."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from encodery.base.artifact import Artifact, create_artifact
from encodery.base.errors import EmptyInput, SettingsError
from encodery.base.settings import check_at_least, encode
from encodery.corpus.document import Document
from encodery.corpus.shards import read_documents, shard_paths
from encodery.tokens.kind import TokenizerKind
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.measure import evaluation_documents, information_loss
from encodery.tokens.sample import DocumentSample
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.up_to_date import up_to_date_artifact

KIND = "tokenizer"
MEASURED_BYTES = 2_000_000
"""How much of the held-out text is encoded to count unknown tokens and folded words."""


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """`kind`: the kind of tokenizer. `vocab_size`: the largest number of ids; a model's embeddings have this, rounded
    up to a multiple of 64. `sample_bytes`: the size of the sample of text, None for that of the kind;
    `document_bytes`: the part of one document that counts."""

    kind: TokenizerKind = field(default_factory=Wordpiece)
    vocab_size: int = 16384
    sample_bytes: int | None = None
    document_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        if self.vocab_size < 64:
            raise SettingsError(f"vocab_size = {self.vocab_size}: a vocabulary needs at least 64 ids.")
        check_at_least(self, 1, "document_bytes")
        if self.sample_bytes is not None:
            check_at_least(self, 1, "sample_bytes")

    @property
    def max_sample_bytes(self) -> int:
        """The size of the sample of text."""
        return self.kind.sample_bytes if self.sample_bytes is None else self.sample_bytes


def train_tokenizer(
    corpus: str | Path, out: str | Path, settings: TokenizerSettings, overwrite: bool = False
) -> Artifact:
    """Train on the corpus's training split and write the tokenizer to `out`; if it is there already, nothing is done.

    Raises `ArtifactError` if `corpus` is no corpus, `EmptyInput` if it holds no text.
    """
    source = Artifact.open(corpus, "corpus")
    if not overwrite and (existing := up_to_date_artifact(out, KIND, encode(settings), {"corpus": source})):
        return existing
    with create_artifact(out, KIND, encode(settings), {"corpus": source}, overwrite=overwrite) as draft:
        started = time.perf_counter()
        texts = DocumentSample(_documents(source, settings.kind), settings.max_sample_bytes, settings.document_bytes)
        if settings.kind.needs_texts and not texts.bytes:
            raise EmptyInput(f"{corpus}: its training split holds no text to train a tokenizer on.")
        tokenizer = Tokenizer(settings.kind.train(texts, settings.vocab_size))
        if tokenizer.backend.post_processor is None:
            tokenizer.set_template()
        tokenizer.save(draft.path)
        if settings.kind.needs_texts:
            draft.metrics.update(information_loss(tokenizer, evaluation_documents(corpus, MEASURED_BYTES)))
        draft.metrics.update(
            vocab_size=tokenizer.vocab_size,
            used_size=tokenizer.used_size,
            sample_documents=len(texts),
            sample_bytes=texts.bytes,
            offered_documents=texts.total_documents,
            seconds=round(time.perf_counter() - started, 2),
        )
    return Artifact.open(out, KIND)


def _documents(corpus: Artifact, kind: TokenizerKind) -> Iterator[Document]:
    return read_documents(shard_paths(corpus.path, "train") if kind.needs_texts else [])
