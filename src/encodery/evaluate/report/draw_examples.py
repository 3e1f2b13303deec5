"""What the model does with held-out text: fills words in, finds words and passages alike. Chosen by hash, not by eye.

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

FILLS, WORDS, QUERIES, PASSAGES = 8, 10, 4, 300
DOCUMENTS = 2000
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])|\n\s*\n")
WORD = re.compile(r"[^\W\d_]{4,}")
PROSE = 0.8


@dataclass(frozen=True)
class FillExample:
    """A sentence with one word hidden; `guesses` are (word, probability), best first."""

    before: str
    word: str
    after: str
    predictions: list[tuple[str, float]]


@dataclass(frozen=True)
class NeighbourExample:
    """A text and what lies nearest to it: (text, cosine)."""

    text: str
    nearest: list[tuple[str, float]]


@dataclass(frozen=True)
class ModelExamples:
    """What the page shows of the model at work; lists are empty where there was no text."""

    fills: list[FillExample] = field(default_factory=list)
    words: list[NeighbourExample] = field(default_factory=list)
    passages: list[NeighbourExample] = field(default_factory=list)
    compared: int = 0


def draw_examples(loaded: LoadedModel, facts: RunFacts) -> ModelExamples:
    """Samples of a model from the held-out text of the corpus it came from."""
    corpus, store = facts.ancestor("corpus"), facts.ancestor("tokens")
    documents = list(itertools.islice(_heldout(corpus.path), DOCUMENTS)) if corpus is not None else []
    each = max(2, -(-PASSAGES // max(1, len(documents))))
    passages = [passage for document in documents for passage in _passages(document, each)][:PASSAGES]
    return ModelExamples(
        fills=fills(loaded, [sentence for document in documents for sentence in _sentence(document)]),
        words=_words(loaded, store.path) if store is not None else [],
        passages=_alike(loaded, passages),
        compared=len(passages),
    )


def fills(loaded: LoadedModel, sentences: list[str], count: int = FILLS) -> list[FillExample]:
    """One hidden word in each of `count` sentences, with the model's five best guesses."""
    if "mlm" not in loaded.model.heads or not sentences:
        return []
    tokenizer, longest = loaded.tokenizer, loaded.model.settings.max_length
    found: list[FillExample] = []
    for sentence in sorted(sentences, key=lambda s: derive_seed("fill", s)):
        ids, offsets = tokenizer.encode_with_offsets(sentence, add_special_tokens=True)
        places = _hideable(sentence, offsets) if len(ids) <= longest else []
        if not places:
            continue
        place = places[derive_seed("place", sentence) % len(places)]
        begin, end = map(int, offsets[place])
        begin += len(sentence[begin:end]) - len(sentence[begin:end].lstrip())
        guesses = _guesses(loaded, ids.astype(np.int64), place)
        found.append(FillExample(sentence[:begin], sentence[begin:end], sentence[end:], guesses))
        if len(found) == count:
            break
    return found


def _hideable(sentence: str, offsets: np.ndarray) -> list[int]:
    """Tokens that are a whole word of at least four letters."""
    words = {match.span() for match in WORD.finditer(sentence)}
    found = []
    for place, (begin, end) in enumerate(offsets.tolist()):
        piece = sentence[begin:end]
        if (begin + len(piece) - len(piece.lstrip()), end) in words:
            found.append(place)
    return found


def _guesses(loaded: LoadedModel, ids: np.ndarray, place: int) -> list[tuple[str, float]]:
    tokenizer, model = loaded.tokenizer, loaded.model
    ids = ids.copy()
    ids[place] = tokenizer.mask_id
    with torch.inference_mode():
        hidden = model.encoder(Batch.from_sequences([ids.tolist()])).hidden
        logits = model.mlm_head(hidden[place : place + 1], model.encoder)[0, : tokenizer.used_size].float()
        best = logits.softmax(0).topk(5)
    return [
        (tokenizer.decode([number], skip_special_tokens=False).strip() or repr(tokenizer.piece(number)), float(chance))
        for number, chance in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _words(loaded: LoadedModel, store: Path) -> list[NeighbourExample]:
    """Nearest words by the model's word table, for words of the text spread over its range of frequencies."""
    from encodery.tokens.store import TokenStore

    tokenizer = loaded.tokenizer
    opened = TokenStore.open(store)
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for shard in opened.split("train").shards[:8]:
        counts += np.bincount(shard[:2_000_000], minlength=tokenizer.vocab_size)[: tokenizer.vocab_size]
    names = {n: tokenizer.decode([n]).strip() for n in np.flatnonzero(counts >= 20).tolist() if tokenizer.word_start[n]}
    known = [n for n, name in names.items() if WORD.fullmatch(name) and name.islower()]
    if len(known) < 2 * WORDS:
        return []
    known.sort(key=lambda n: -int(counts[n]))
    vectors = loaded.model.encoder.token_embeddings.detach()[torch.tensor(known)].float().cpu().numpy()
    near = _cosines(vectors)
    first = min(100, len(known) // 4)
    places = np.unique(np.geomspace(first, min(len(known) - 1, 3000), WORDS).astype(int))
    return [
        NeighbourExample(names[known[p]], [(names[known[q]], float(near[p, q])) for q in np.argsort(-near[p])[1:6]])
        for p in places.tolist()
    ]


def _alike(loaded: LoadedModel, passages: list[str]) -> list[NeighbourExample]:
    """Nearest passages by the pooled hidden states, the mean of all passages taken away."""
    from encodery.encoders.dense import DenseEncoder
    from encodery.encoders.settings import DenseSettings

    if len(passages) < 8:
        return []
    settings = decode(DenseSettings, loaded.settings.get("dense", {}), where=f"{loaded.path}: dense")
    embedder = DenseEncoder(loaded.model, loaded.tokenizer, settings, device="cpu")
    near = _cosines(embedder.encode(passages, truncate="right").vectors)
    places = np.linspace(0, len(passages) - 1, QUERIES + 2).astype(int)[1:-1]
    return [
        NeighbourExample(passages[p], [(passages[q], float(near[p, q])) for q in np.argsort(-near[p])[1:3]])
        for p in places.tolist()
    ]


def _cosines(vectors: np.ndarray) -> np.ndarray:
    """(N, N) cosines of centred vectors (N, H), each with itself above all others."""
    centred = vectors - vectors.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True) + 1e-9
    near: np.ndarray = centred @ centred.T
    np.fill_diagonal(near, 2.0)
    return near


def _heldout(corpus: Path) -> Iterator[str]:
    from encodery.corpus.shards import read_documents, shard_paths

    return (document.text for document in read_documents(shard_paths(corpus, "heldout")))


def _sentence(document: str) -> list[str]:
    """At most one sentence of a document, so that no document speaks for all."""
    good = [s.strip() for s in SENTENCE.split(document[:20_000]) if _is_prose(s.strip(), 50, 220)]
    return [min(good, key=lambda s: derive_seed("sentence", s))] if good else []


def _passages(document: str, most: int) -> list[str]:
    """At most `most` passages of a document."""
    good = [p.strip() for p in document[:20_000].split("\n\n") if _is_prose(p.strip(), 120, 500)]
    return sorted(good, key=lambda p: derive_seed("passage", p))[:most]


def _is_prose(piece: str, shortest: int, longest: int) -> bool:
    if not shortest <= len(piece) <= longest:
        return False
    return sum(c.isalpha() or c == " " for c in piece) >= PROSE * len(piece) and piece[-1] in ".!?:;"
