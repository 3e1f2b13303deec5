"""Draws examples of what a model predicts on held-out text. They are selected by a hash, not by their quality.

Shapes: T tokens, V vocabulary, N passages, H width.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from encodery.base.machine import derive_seed
from encodery.base.settings import decode
from encodery.model.shape import Batch

if TYPE_CHECKING:
    from encodery.evaluate.report.run_facts import RunFacts
    from encodery.model.load import LoadedModel

MAX_DOCUMENTS = 2000
NUM_FILLS, NUM_WORDS, NUM_QUERIES = 8, 10, 4
MAX_PASSAGES, MIN_PASSAGES = 300, 8
MIN_WORD_COUNT = 20
SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])|\n\s*\n")
WORD = re.compile(r"[^\W\d_]{4,}")
MIN_LETTERS = 0.8
"""Fraction of letters and spaces from which a text is prose."""


@dataclass(frozen=True)
class FillExample:
    """A sentence with one masked word. `predictions` are (word, probability), best first."""

    before: str
    word: str
    after: str
    predictions: list[tuple[str, float]]


@dataclass(frozen=True)
class NeighbourExample:
    """A text and its nearest neighbours, (text, cosine similarity), best first."""

    text: str
    nearest: list[tuple[str, float]]


@dataclass(frozen=True)
class ModelExamples:
    """The examples of one model, with the number of passages that were compared. A list is empty if it had no text."""

    fills: list[FillExample] = field(default_factory=list)
    words: list[NeighbourExample] = field(default_factory=list)
    passages: list[NeighbourExample] = field(default_factory=list)
    num_passages: int = 0


def draw_examples(loaded: LoadedModel, facts: RunFacts) -> ModelExamples:
    """Return examples of a model on the held-out text of the corpus that it was trained on."""
    corpus, store = facts.ancestor("corpus"), facts.ancestor("tokens")
    documents = list(itertools.islice(_heldout(corpus.path), MAX_DOCUMENTS)) if corpus is not None else []
    per_document = max(2, -(-MAX_PASSAGES // max(1, len(documents))))
    passages = [passage for document in documents for passage in _passages(document, per_document)][:MAX_PASSAGES]
    return ModelExamples(
        fills=fill_examples(loaded, [sentence for document in documents for sentence in _sentence(document)]),
        words=_similar_words(loaded, store.path) if store is not None else [],
        passages=_similar_passages(loaded, passages),
        num_passages=len(passages),
    )


def fill_examples(loaded: LoadedModel, sentences: list[str], count: int = NUM_FILLS) -> list[FillExample]:
    """Return up to `count` sentences with one masked word each and the five best predictions of the model."""
    if "mlm" not in loaded.model.heads or not sentences:
        return []
    tokenizer, max_length = loaded.tokenizer, loaded.model.settings.max_length
    examples: list[FillExample] = []
    for sentence in sorted(sentences, key=lambda s: derive_seed("fill", s)):
        ids, offsets = tokenizer.encode_with_offsets(sentence, add_special_tokens=True)
        positions = _whole_word_positions(sentence, offsets) if len(ids) <= max_length else []
        if not positions:
            continue
        position = positions[derive_seed("place", sentence) % len(positions)]
        begin, end = map(int, offsets[position])
        begin += len(sentence[begin:end]) - len(sentence[begin:end].lstrip())
        predictions = _predictions(loaded, ids.astype(np.int64), position)
        examples.append(FillExample(sentence[:begin], sentence[begin:end], sentence[end:], predictions))
        if len(examples) == count:
            break
    return examples


def _whole_word_positions(sentence: str, offsets: np.ndarray) -> list[int]:
    """Return the positions of tokens that are a whole word of at least four letters; `offsets` (T, 2)."""
    words = {match.span() for match in WORD.finditer(sentence)}
    positions = []
    for position, (begin, end) in enumerate(offsets.tolist()):
        piece = sentence[begin:end]
        if (begin + len(piece) - len(piece.lstrip()), end) in words:
            positions.append(position)
    return positions


def _predictions(loaded: LoadedModel, ids: np.ndarray, position: int) -> list[tuple[str, float]]:
    """Return the five most probable tokens at a position of `ids` (T) after masking it, with their probabilities."""
    tokenizer, model = loaded.tokenizer, loaded.model
    ids = ids.copy()
    ids[position] = tokenizer.mask_id
    with torch.inference_mode():
        hidden = model.encoder(Batch.from_sequences([ids.tolist()])).hidden
        logits = model.mlm_head(hidden[position : position + 1], model.encoder)[0, : tokenizer.used_size].float()
        best = logits.softmax(0).topk(5)
    return [
        (
            tokenizer.decode([token], skip_special_tokens=False).strip() or repr(tokenizer.piece(token)),
            float(probability),
        )
        for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _similar_words(loaded: LoadedModel, store: Path) -> list[NeighbourExample]:
    """Return words from the whole range of frequencies with their nearest neighbours by the token embeddings."""
    from encodery.tokens.store import TokenStore

    tokenizer = loaded.tokenizer
    token_store = TokenStore.open(store)
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for shard in token_store.split("train").shards[:8]:
        counts += np.bincount(shard[:2_000_000], minlength=tokenizer.vocab_size)[: tokenizer.vocab_size]
    frequent = np.flatnonzero(counts >= MIN_WORD_COUNT).tolist()
    names = {token: tokenizer.decode([token]).strip() for token in frequent if tokenizer.word_start[token]}
    tokens = [token for token, name in names.items() if WORD.fullmatch(name) and name.islower()]
    if len(tokens) < 2 * NUM_WORDS:
        return []
    tokens.sort(key=lambda token: -int(counts[token]))
    embeddings = loaded.model.encoder.token_embeddings.detach()[torch.tensor(tokens)].float().cpu().numpy()
    cosines = _cosines(embeddings)
    first = min(100, len(tokens) // 4)
    ranks = np.unique(np.geomspace(first, min(len(tokens) - 1, 3000), NUM_WORDS).astype(int))
    return [
        NeighbourExample(
            names[tokens[p]], [(names[tokens[q]], float(cosines[p, q])) for q in np.argsort(-cosines[p])[1:6]]
        )
        for p in ranks.tolist()
    ]


def _similar_passages(loaded: LoadedModel, passages: list[str]) -> list[NeighbourExample]:
    """Return a few passages with their nearest neighbours by the pooled hidden states."""
    from encodery.encoders.dense import DenseEncoder
    from encodery.encoders.settings import DenseSettings

    if len(passages) < MIN_PASSAGES:
        return []
    settings = decode(DenseSettings, loaded.settings.get("dense", {}), where=f"{loaded.path}: dense")
    encoder = DenseEncoder(loaded.model, loaded.tokenizer, settings, device="cpu")
    cosines = _cosines(encoder.encode(passages, truncate="right").vectors)
    queries = np.linspace(0, len(passages) - 1, NUM_QUERIES + 2).astype(int)[1:-1]
    return [
        NeighbourExample(passages[p], [(passages[q], float(cosines[p, q])) for q in np.argsort(-cosines[p])[1:3]])
        for p in queries.tolist()
    ]


def _cosines(embeddings: np.ndarray) -> np.ndarray:
    """Return the (N, N) cosine similarities of embeddings (N, H) after centring.

    The diagonal is 2, so that each embedding is its own nearest neighbour.
    """
    centred = embeddings - embeddings.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True) + 1e-9
    cosines: np.ndarray = centred @ centred.T
    np.fill_diagonal(cosines, 2.0)
    return cosines


def _heldout(corpus: Path) -> Iterator[str]:
    from encodery.corpus.shards import read_documents, shard_paths

    return (document.text for document in read_documents(shard_paths(corpus, "heldout")))


def _sentence(document: str) -> list[str]:
    """Return up to one sentence of a document, so that no document dominates the examples."""
    sentences = [s.strip() for s in SENTENCE_BREAK.split(document[:20_000]) if _is_prose(s.strip(), 50, 220)]
    return [min(sentences, key=lambda s: derive_seed("sentence", s))] if sentences else []


def _passages(document: str, max_passages: int) -> list[str]:
    """Return up to `max_passages` paragraphs of a document."""
    paragraphs = [p.strip() for p in document[:20_000].split("\n\n") if _is_prose(p.strip(), 120, 500)]
    return sorted(paragraphs, key=lambda p: derive_seed("passage", p))[:max_passages]


def _is_prose(text: str, min_length: int, max_length: int) -> bool:
    """Return whether a text has a suitable length, consists largely of letters and ends like a sentence."""
    if not min_length <= len(text) <= max_length:
        return False
    return sum(c.isalpha() or c == " " for c in text) >= MIN_LETTERS * len(text) and text[-1] in ".!?:;"
