"""Tags of words (parts of speech, entities) read off each layer by logistic regression. arXiv:1905.06316

A word is its first piece. Beside the layers stands the tag each word had most often in training, which needs no model.
The control task gives every word form a tag by chance (arXiv:1909.03368): what a probe learns of it, it learns by
heart, and only what it does better on the real tags is the layer's. Intervals are over sentences, whose words are not
independent of each other. Shapes: W words, S sentences, L layers, H width.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from encodery.base.errors import InputError, SettingsError
from encodery.base.machine import device
from encodery.encoders.packing import pack_sequences
from encodery.evaluate import linear
from encodery.evaluate.probes import Probe, ProbeResult
from encodery.evaluate.suites import MetricValue
from encodery.rows.columns import assign_roles
from encodery.rows.read import read_tables
from encodery.rows.split import fill_missing_splits
from encodery.rows.table import Table
from encodery.tokens.windows import batches_by_length

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.tokens.tokenizer import Tokenizer

BATCH_TOKENS = 4096
SHARES = {"train": 0.8, "test": 0.2}


@dataclass(frozen=True, eq=False)
class _Words:
    """W words with their tags (W,), and the sentences they stand in."""

    sentences: list[list[str]]
    tags: np.ndarray

    @property
    def forms(self) -> list[str]:
        return [word for sentence in self.sentences for word in sentence]

    def judged(self, guesses: np.ndarray, truth: np.ndarray) -> MetricValue:
        """The share of tags (W,) that are guessed, made of the sentences' shares."""
        sizes = np.array([len(sentence) for sentence in self.sentences])
        right = np.add.reduceat((guesses == truth).astype(np.float64), sizes.cumsum() - sizes)
        return MetricValue.of(_share, sizes, right)


@dataclass(frozen=True, kw_only=True)
class TagProbe(Probe):
    """`columns`: those of tokens and tags, guessed where not told. `train`, `test`: words at most of either part, whole
    sentences from the first on. `control`: also the control task, which doubles the time."""

    columns: dict[str, str] = field(default_factory=dict)
    max_train_words: int = 8000
    max_test_words: int = 4000
    control: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.max_train_words, self.max_test_words) < 1:
            raise SettingsError(f"train = {self.max_train_words}, test = {self.max_test_words}: must be at least 1.")

    def measure(self, data: Path, loaded: LoadedModel) -> ProbeResult:
        held = read_tables(data)
        roles = assign_roles(next(iter(held.values())), ("tokens", "tags"), self.columns).columns
        if "test" not in held and "dev" not in held:
            held = fill_missing_splits(held, (roles["tokens"],), None, SHARES, self.seed)
        if "train" not in held:
            raise InputError(f"{data}: has no sentences to learn from, only {', '.join(held)}.")
        asked = held["test"] if "test" in held else held["dev"]
        longest = loaded.model.settings.max_length - 2
        fits = loaded.tokenizer
        train = _words(held["train"], roles, self.max_train_words, fits, longest)
        test = _words(asked, roles, self.max_test_words, fits, longest)
        below, above = (_states(loaded, words.sentences) for words in (train, test))
        layers = [test.judged(_guesses(below[n], train.tags, above[n]), test.tags) for n in range(len(below))]
        control = []
        if self.control:
            drawn = [self._by_chance(words.forms, train.tags) for words in (train, test)]
            control = [test.judged(_guesses(below[n], drawn[0], above[n]), drawn[1]) for n in range(len(below))]
        return ProbeResult("accuracy", len(test.tags), layers, {"tag of the word": _usual(train, test)}, control)

    def _by_chance(self, forms: list[str], tags: np.ndarray) -> np.ndarray:
        """A tag for each word that its form alone decides, as frequent as the real ones."""
        held = np.sort(tags)
        found = {}
        for form in set(forms):
            digest = hashlib.sha256(f"{self.seed}\0{form}".encode("utf-8", "surrogatepass")).digest()
            found[form] = held[int.from_bytes(digest[:6], "big") * len(held) >> 48]
        return np.array([found[form] for form in forms])


def _words(table: Table, roles: Mapping[str, str], most: int, tokenizer: Tokenizer, longest: int) -> _Words:
    """Whole sentences up to `most` words, and at least one. Raises `InputError` for one longer than the model takes."""
    sentences: list[list[str]] = []
    tags: list[str] = []
    for number, (words, own) in enumerate(zip(table[roles["tokens"]], table[roles["tags"]], strict=True)):
        if not isinstance(words, list) or not isinstance(own, list) or len(words) != len(own):
            raise InputError(f"{table.location(number)}: as many tags as words are needed, both in lists.")
        if not words:
            continue
        if sentences and len(tags) + len(words) > most:
            break
        length = len(tokenizer.encode(" ".join(words)))
        if length > longest:
            raise InputError(f"{table.location(number)}: has {length} tokens, the model takes {longest}.")
        sentences.append([str(word) for word in words])
        tags += map(str, own)
    if not sentences:
        raise InputError(f"{table.name}: holds no words.")
    return _Words(sentences, np.array(tags))


@torch.inference_mode()
def _states(loaded: LoadedModel, sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """The first piece of each word in each layer (L, W, H) float32; a word the tokenizer drops has that before it."""
    model, tokenizer = loaded.model.to(device()).eval(), loaded.tokenizer
    encoded = [_first_pieces(sentence, tokenizer) for sentence in sentences]
    begins = np.concatenate([[0], np.cumsum([len(sentence) for sentence in sentences])])
    lengths = np.array([len(ids) + 2 for ids, _ in encoded], np.int64)
    depth, width = model.settings.depth, model.settings.width
    found = np.zeros((depth + 1, int(begins[-1]), width), np.float32)
    for numbers in batches_by_length(lengths, BATCH_TOKENS):
        batch = pack_sequences([encoded[n][0] for n in numbers], tokenizer.cls_id, tokenizer.sep_id).to(device())
        layers = model.encoder(batch, keep_layers=True).layers
        starts = batch.cu_seqlens[:-1].tolist()
        rows = np.concatenate([start + encoded[n][1] for start, n in zip(starts, numbers, strict=True)])
        places = np.concatenate([np.arange(begins[n], begins[n + 1]) for n in numbers])
        at = torch.from_numpy(rows).to(batch.ids.device)
        for layer, states in enumerate(layers):
            found[layer, places] = states[at].float().cpu().numpy()
    return found


def _first_pieces(words: Sequence[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) of a sentence, and the place of each word's first piece in the sequence, where 0 is [CLS] (W,)."""
    text = " ".join(words)
    ids, offsets = tokenizer.encode_with_offsets(text)
    begins = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    # The last token that begins at or before the word's first character and ends after it, else the one before.
    places = np.searchsorted(offsets[:, 1], begins, side="right") if len(ids) else np.zeros(len(words), np.int64)
    return ids, np.minimum(places, max(len(ids) - 1, 0)) + 1


def _guesses(vectors: np.ndarray, tags: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The tag of each word asked for (W,), of states (W, H) scaled as the training ones are."""
    middle, spread = vectors.mean(0), vectors.std(0) + 1e-6
    found: np.ndarray = linear.fit_once((vectors - middle) / spread, tags).predict((asked - middle) / spread)
    return found


def _share(sizes: np.ndarray, right: np.ndarray) -> float:
    """Of sentences (S,) and their words guessed (S,)."""
    return float(right.sum() / sizes.sum())


def _usual(train: _Words, test: _Words) -> MetricValue:
    """The tag each form had most often, the most frequent one of all for forms not seen."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for form, tag in zip(train.forms, train.tags.tolist(), strict=True):
        seen[form][tag] += 1
    usual = Counter(train.tags.tolist()).most_common(1)[0][0]
    guesses = [seen[form].most_common(1)[0][0] if form in seen else usual for form in test.forms]
    return test.judged(np.array(guesses), test.tags)
