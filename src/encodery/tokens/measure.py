"""Measures a tokenizer on a text: tokens per word, unknown tokens, entries of the vocabulary that are never used.

A word is a run without whitespace; a token's bytes are those of the text, not of its normalised form, so kinds that
fold case or accents can be compared. Fewer tokens for the same text are not better by themselves: compare the bits per
byte of models.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encodery.base.artifact import Artifact
from encodery.base.errors import EmptyInput
from encodery.corpus.document import Document
from encodery.corpus.shards import read_documents, shard_paths
from encodery.tokens.tokenizer import Tokenizer

WORD = re.compile(r"\w+")
LISTED = 12
DISTINCT_WORDS = 50_000
DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class SourceMetrics:
    """Metrics of one source of the text."""

    bytes: int
    tokens_per_word: float
    bytes_per_token: float
    unknown_rate: float


@dataclass(frozen=True, kw_only=True)
class TokenizerMetrics:
    """Metrics of one tokenizer on one text. Rates and fractions are in 0..1."""

    name: str
    vocab_size: int
    documents: int
    bytes: int
    tokens: int
    tokens_per_word: float
    bytes_per_token: float
    unknown_rate: float
    single_token_words: float
    vocabulary_used: float
    longest_pieces: list[str]
    most_frequent_pieces: list[tuple[str, float]]
    sources: dict[str, SourceMetrics] = field(default_factory=dict)

    def table(self) -> dict[str, Any]:
        """Return the metrics as plain values, for JSON."""
        return asdict(self)


@dataclass
class _Count:
    bytes: int = 0
    words: int = 0
    tokens: int = 0
    unknown: int = 0

    def add(self, text: str, ids: npt.NDArray[np.uint32], unk_id: int) -> None:
        self.bytes += len(text.encode("utf-8", errors="replace"))
        self.words += len(text.split())
        self.tokens += len(ids)
        self.unknown += int(np.count_nonzero(ids == unk_id))

    def metrics(self) -> dict[str, Any]:
        return {
            "bytes": self.bytes,
            "tokens_per_word": round(self.tokens / max(self.words, 1), 4),
            "bytes_per_token": round(self.bytes / max(self.tokens, 1), 4),
            "unknown_rate": round(self.unknown / max(self.tokens, 1), 6),
        }


def evaluation_documents(corpus: str | Path, max_bytes: int = 20_000_000) -> list[Document]:
    """Return the held-out documents of a corpus, at most `max_bytes`; training documents if none are held out.

    Raises `ArtifactError` if `corpus` is no corpus, `EmptyInput` if it holds no text.
    """
    Artifact.open(corpus, "corpus")
    for split in ("heldout", "train"):
        if documents := _first(read_documents(shard_paths(corpus, split)), max_bytes):
            return documents
    raise EmptyInput(f"{corpus}: holds no text to measure on.")


def _first(text: Iterable[Document], limit: int) -> list[Document]:
    chosen: list[Document] = []
    size = 0
    for document in text:
        size += len(document.text.encode("utf-8", errors="replace"))
        if size > limit and chosen:
            break
        if document.text.strip():
            chosen.append(document)
    return chosen


def measure(tokenizer: Tokenizer, documents: list[Document], name: str) -> TokenizerMetrics:
    """Return the metrics of `tokenizer` on documents; sources are distinguished by their metadata."""
    total, sources = _Count(), dict[str, _Count]()
    uses = np.zeros(tokenizer.vocab_size, np.int64)
    words: Counter[str] = Counter()
    for first in range(0, len(documents), DOCUMENTS_AT_ONCE):
        batch = documents[first : first + DOCUMENTS_AT_ONCE]
        for document, ids in zip(batch, tokenizer.encode_batch([d.text for d in batch]), strict=True):
            source = str(document.metadata.get("source", ""))
            for count in (total, sources.setdefault(source, _Count())):
                count.add(document.text, ids, tokenizer.unk_id)
            uses += np.bincount(ids, minlength=tokenizer.vocab_size)
            words.update(WORD.findall(document.text))
    largest = sorted(sources, key=lambda source: -sources[source].bytes)[:LISTED]
    return TokenizerMetrics(
        name=name,
        vocab_size=tokenizer.vocab_size,
        documents=len(documents),
        tokens=total.tokens,
        single_token_words=_single_token_words(tokenizer, words),
        vocabulary_used=round(int(np.count_nonzero(uses)) / tokenizer.used_size, 4),
        longest_pieces=_longest(tokenizer, uses),
        most_frequent_pieces=_most_frequent(tokenizer, uses),
        sources={source: SourceMetrics(**sources[source].metrics()) for source in largest if source},
        **total.metrics(),
    )


def information_loss(tokenizer: Tokenizer, documents: list[Document]) -> dict[str, Any]:
    """Return what a tokenizer loses of a text: `unknown_rate`, the fraction of the tokens that are [UNK], the most
    frequent `unknown_characters`, and `folded_rate`, the fraction of the words whose case or letters are changed."""
    count, unknown, words = _Count(), Counter[str](), Counter[str]()
    for document in documents:
        ids, offsets = tokenizer.encode_with_offsets(document.text)
        count.add(document.text, ids, tokenizer.unk_id)
        unknown.update(document.text[start:end] for start, end in offsets[ids == tokenizer.unk_id].tolist())
        words.update(WORD.findall(document.text))
    normalizer = tokenizer.backend.normalizer
    folded = sum(
        times for word, times in words.items() if normalizer and _is_folded(word, normalizer.normalize_str(word))
    )
    return {
        "unknown_rate": count.metrics()["unknown_rate"],
        "unknown_characters": [text for text, _ in unknown.most_common(LISTED)],
        "folded_rate": round(folded / max(words.total(), 1), 6),
    }


def _is_folded(word: str, normalized: str) -> bool:
    """Whether more than spaces and the way of writing an accent differs."""
    return unicodedata.normalize("NFC", "".join(normalized.split())) != unicodedata.normalize("NFC", word)


def _single_token_words(tokenizer: Tokenizer, words: Counter[str]) -> float:
    """The fraction of the words in running text (letters and digits after a space) that are one token."""
    known = words.most_common(DISTINCT_WORDS)
    ids = tokenizer.encode_batch([f" {word}" for word, _ in known])
    unk_id = tokenizer.unk_id
    single = sum(times for (_, times), i in zip(known, ids, strict=True) if len(i) == 1 and i[0] != unk_id)
    return round(single / max(words.total(), 1), 4)


def _longest(tokenizer: Tokenizer, uses: npt.NDArray[np.int64]) -> list[str]:
    numbers = set(np.flatnonzero(uses).tolist()) - tokenizer.special_ids
    texts = {tokenizer.decode([number]).strip() for number in numbers}
    return sorted(texts, key=lambda text: (-len(text), text))[:LISTED]


def _most_frequent(tokenizer: Tokenizer, uses: npt.NDArray[np.int64]) -> list[tuple[str, float]]:
    order = np.argsort(-uses, kind="stable")[:LISTED]
    total = max(int(uses.sum()), 1)
    return [(tokenizer.piece(number), round(int(uses[number]) / total, 4)) for number in order.tolist() if uses[number]]


def compare(folders: Iterable[str | Path], corpus: str | Path, max_bytes: int = 20_000_000) -> list[TokenizerMetrics]:
    """Return the metrics of several tokenizers on the same text of a corpus."""
    text = evaluation_documents(corpus, max_bytes)
    return [measure(Tokenizer.load(folder), text, Path(folder).name) for folder in folders]
