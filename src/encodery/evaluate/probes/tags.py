"""Predict the tags of words (parts of speech, entities) from each layer by logistic regression. arXiv:1905.06316

A word is represented by its first piece. The baseline predicts the most frequent tag of each word in training, without
a model. The control task assigns a random tag to every word form (arXiv:1909.03368): a probe can only memorise it, so
the difference to the real tags is what the layer contributes. Intervals are over sentences, since the words of a
sentence are not independent. Shapes: W words, S sentences, L layers, H hidden.
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

from encodery.base.errors import InputError
from encodery.base.machine import device
from encodery.base.settings import check_at_least
from encodery.encoders.packing import pack_sequences
from encodery.evaluate import linear
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.probe_result import ProbeResult
from encodery.evaluate.probes import Probe
from encodery.rows.columns import assign_roles
from encodery.rows.read import read_tables
from encodery.rows.split import fill_missing_splits
from encodery.rows.table import Table
from encodery.tokens.windows import batches_by_length

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.tokens.tokenizer import Tokenizer

BATCH_TOKENS = 4096
FRACTIONS = {"train": 0.8, "test": 0.2}


@dataclass(frozen=True, eq=False)
class _Words:
    """W words with their tags (W,), by sentence."""

    sentences: list[list[str]]
    tags: np.ndarray

    @property
    def forms(self) -> list[str]:
        return [word for sentence in self.sentences for word in sentence]

    def accuracy(self, predicted: np.ndarray, truth: np.ndarray) -> MetricValue:
        """Return the fraction of correct tags (W,), with the counts of each sentence."""
        sizes = np.array([len(sentence) for sentence in self.sentences])
        correct = np.add.reduceat((predicted == truth).astype(np.float64), sizes.cumsum() - sizes)
        return MetricValue.of(_fraction, sizes, correct)


@dataclass(frozen=True, kw_only=True)
class TagProbe(Probe):
    """Use it to see which layers of an encoder represent the grammar of words.

    Attributes:
        columns: role -> column, for tokens and tags; others are assigned by name.
        max_train_words, max_test_words: the maximum number of words; complete sentences from the first on are used.
        control: whether the control task is evaluated too, which doubles the time.
    """

    columns: dict[str, str] = field(default_factory=dict)
    max_train_words: int = 8000
    max_test_words: int = 4000
    control: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "max_train_words", "max_test_words")

    def measure(self, data: Path, loaded: LoadedModel) -> ProbeResult:
        tables = read_tables(data)
        roles = assign_roles(next(iter(tables.values())), ("tokens", "tags"), self.columns).columns
        if "test" not in tables and "dev" not in tables:
            tables = fill_missing_splits(tables, (roles["tokens"],), None, FRACTIONS, self.seed)
        if "train" not in tables:
            raise InputError(f"{data}: has no train split, only {', '.join(tables)}.")
        heldout = tables["test"] if "test" in tables else tables["dev"]
        max_length, tokenizer = loaded.model.settings.max_length - 2, loaded.tokenizer
        train = _words(tables["train"], roles, self.max_train_words, tokenizer, max_length)
        test = _words(heldout, roles, self.max_test_words, tokenizer, max_length)
        train_states, test_states = (_states(loaded, words.sentences) for words in (train, test))
        layers = [
            test.accuracy(_predict(states, train.tags, heldout_states), test.tags)
            for states, heldout_states in zip(train_states, test_states, strict=True)
        ]
        control = []
        if self.control:
            random_train, random_test = (self._random_tags(words.forms, train.tags) for words in (train, test))
            control = [
                test.accuracy(_predict(states, random_train, heldout_states), random_test)
                for states, heldout_states in zip(train_states, test_states, strict=True)
            ]
        return ProbeResult(
            "accuracy", len(test.tags), layers, {"tag of the word": _most_frequent(train, test)}, control
        )

    def _random_tags(self, forms: list[str], tags: np.ndarray) -> np.ndarray:
        """Return a random tag for each word form, with the frequencies of the real tags."""
        ordered = np.sort(tags)
        tag_of = {}
        for form in set(forms):
            digest = hashlib.sha256(f"{self.seed}\0{form}".encode("utf-8", "surrogatepass")).digest()
            tag_of[form] = ordered[int.from_bytes(digest[:6], "big") * len(ordered) >> 48]
        return np.array([tag_of[form] for form in forms])


def _words(table: Table, roles: Mapping[str, str], max_words: int, tokenizer: Tokenizer, max_length: int) -> _Words:
    """Return complete sentences of up to `max_words` words. Raises `InputError` for one that is too long."""
    sentences: list[list[str]] = []
    tags: list[str] = []
    for number, (words, word_tags) in enumerate(zip(table[roles["tokens"]], table[roles["tags"]], strict=True)):
        if not isinstance(words, list) or not isinstance(word_tags, list) or len(words) != len(word_tags):
            raise InputError(f"{table.location(number)}: a list of words and a list of as many tags are needed.")
        if not words:
            continue
        if sentences and len(tags) + len(words) > max_words:
            break
        length = len(tokenizer.encode(" ".join(words)))
        if length > max_length:
            raise InputError(f"{table.location(number)}: has {length} tokens; the model accepts {max_length}.")
        sentences.append([str(word) for word in words])
        tags += map(str, word_tags)
    if not sentences:
        raise InputError(f"{table.name}: contains no words.")
    return _Words(sentences, np.array(tags))


@torch.inference_mode()
def _states(loaded: LoadedModel, sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the first piece of each word in each layer (L, W, H); a word without pieces gets the one before."""
    model, tokenizer = loaded.model.to(device()).eval(), loaded.tokenizer
    encoded = [_first_pieces(sentence, tokenizer) for sentence in sentences]
    starts_of = np.concatenate([[0], np.cumsum([len(sentence) for sentence in sentences])])
    lengths = np.array([len(ids) + 2 for ids, _ in encoded], np.int64)
    depth, width = model.settings.depth, model.settings.width
    result = np.zeros((depth + 1, int(starts_of[-1]), width), np.float32)
    for numbers in batches_by_length(lengths, BATCH_TOKENS):
        batch = pack_sequences([encoded[n][0] for n in numbers], tokenizer.cls_id, tokenizer.sep_id).to(device())
        layers = model.encoder(batch, keep_layers=True).layers
        starts = batch.cu_seqlens[:-1].tolist()
        rows = np.concatenate([start + encoded[n][1] for start, n in zip(starts, numbers, strict=True)])
        positions = np.concatenate([np.arange(starts_of[n], starts_of[n + 1]) for n in numbers])
        at = torch.from_numpy(rows).to(batch.ids.device)
        for layer, states in enumerate(layers):
            result[layer, positions] = states[at].float().cpu().numpy()
    return result


def _first_pieces(words: Sequence[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids (n,) of a sentence, and the position of each word's first piece (W,), where 0 is [CLS]."""
    text = " ".join(words)
    ids, offsets = tokenizer.encode_with_offsets(text)
    starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    # The token that contains the first character of the word, or else the one before.
    positions = np.searchsorted(offsets[:, 1], starts, side="right") if len(ids) else np.zeros(len(words), np.int64)
    return ids, np.minimum(positions, max(len(ids) - 1, 0)) + 1


def _predict(train: np.ndarray, tags: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the predicted tags of words (W,) from states (W, H), standardised as in training."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    predicted: np.ndarray = linear.fit_once((train - mean) / deviation, tags).predict((test - mean) / deviation)
    return predicted


def _fraction(sizes: np.ndarray, correct: np.ndarray) -> float:
    """Return the fraction of correct words, from the words and correct words of each sentence (S,)."""
    return float(correct.sum() / sizes.sum())


def _most_frequent(train: _Words, test: _Words) -> MetricValue:
    """Predict the most frequent tag of each form, or the most frequent tag of all for unseen forms."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for form, tag in zip(train.forms, train.tags.tolist(), strict=True):
        seen[form][tag] += 1
    default = Counter(train.tags.tolist()).most_common(1)[0][0]
    predicted = [seen[form].most_common(1)[0][0] if form in seen else default for form in test.forms]
    return test.accuracy(np.array(predicted), test.tags)
