"""Learned sparse vectors: a weight for each word of the vocabulary, most of them zero. arXiv:2107.05720 (SPLADE)

`weighed` says which words get one. "vocabulary": the masked-language-model head says of each token which words could
stand there; the highest of log(1 + relu(score)) over the tokens of a text is the word's weight. So a text gets words
that it does not contain, and a search by words finds it. "tokens": only the text's own, each relu(w · state + b), the
highest where one stands there several times (arXiv:2106.14807, uniCOIL).
`queries` says what a query is. "encoded": as a text. "bow": its tokens, each as often as it occurs, so that no
model is run for a query (with "tokens", arXiv:2108.08513, TILDEv2).
Shapes: N texts, T tokens of a batch, B sequences, V vocabulary, H width of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.machine import device as machine_device
from encodery.base.settings import decode
from encodery.encoders.dense import BATCH_TOKENS, pack_sequences
from encodery.encoders.settings import prompt_of
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.runtimes.packed_encoder import accelerate
from encodery.tokens.windows import batches_by_length, parse_truncate, split_into_windows

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.tokens.tokenizer import Tokenizer

KEY = "sparse"
QUERY, DOCUMENT = "query", "document"
SparseTerms = Literal["vocabulary", "tokens"]
QueryEncoding = Literal["encoder", "bow"]
STD = 0.02


@dataclass(frozen=True, kw_only=True)
class SparseSettings:
    """How a model's sparse vectors are made; stored with it as `sparse`. `max_length` and `prompts` as for embeddings;
    `keep`: at most so many words of a text, the heaviest; all if not given. `weighed` and `queries`: see above."""

    terms: SparseTerms = "vocabulary"
    query_encoding: QueryEncoding = "encoder"
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    keep: int | None = None


@dataclass(frozen=True, eq=False)
class SparseEmbeddings:
    """N sparse vectors: those of text i are `words[ends[i-1]:ends[i]]` (int32 ids, rising) with their `weights`;
    `tokens` (N,) that were read, `dropped` (N,) that the truncation left out."""

    ends: np.ndarray
    term_ids: np.ndarray
    weights: np.ndarray
    tokens: np.ndarray
    dropped: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def at(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Words and weights of one text."""
        part = slice(int(self.ends[number - 1]) if number else 0, int(self.ends[number]))
        return self.term_ids[part], self.weights[part]


class TermHead(nn.Module):
    """Hidden states (T, H) → a weight ≥ 0 for each token (T,) float32. A new one gives every token about 1, which makes
    a score the number of the query's tokens that a text holds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.normal_(self.linear.weight, std=STD)
        nn.init.ones_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        return torch.relu(self.scores(hidden))

    def scores(self, hidden: Tensor) -> Tensor:
        """What the weights are before negative ones become 0 (T,)."""
        found: Tensor = self.linear(hidden).float()[:, 0]
        return found


class SparseEncoder:
    """A model, its tokenizer and settings; it needs a masked-language-model head, or, for weights of its own tokens,
    a `head` that was trained with it."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        settings: SparseSettings | None = None,
        device: torch.device | str | None = None,
        head: TermHead | None = None,
    ) -> None:
        self.settings = settings or SparseSettings()
        self.device = torch.device(device) if device is not None else machine_device()
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.max_length = min(self.settings.max_length or model.settings.max_length, model.settings.max_length)
        self.head = None if head is None else head.to(self.device).eval()
        self.regular_tokens = regular_tokens(tokenizer, model.settings.vocab_size).to(self.device)
        check_head(model, self.settings.terms, head)

    @classmethod
    def from_loaded(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> SparseEncoder:
        """The encoder of a loaded model; golden weights of a head are computed again. Raises `SettingsError` where the
        model was not trained for sparse vectors, `ArtifactError` where they drift."""
        from encodery.encoders import storage

        if KEY not in loaded.settings:
            raise SettingsError(f"{loaded.path}: was not trained for sparse vectors (recipe splade).")
        settings = decode(SparseSettings, loaded.settings[KEY], where=f"{loaded.path}: {KEY}")
        if settings.terms == "vocabulary":
            return cls(loaded.model, loaded.tokenizer, settings, device)._quick()
        kept, head = loaded.module_state(KEY), TermHead(loaded.model.settings.width)
        head.load_state_dict({name: tensor for name, tensor in kept.items() if name != "golden"})
        encoder = cls(loaded.model, loaded.tokenizer, settings, device, head)
        storage.verify_golden(loaded, encoder.token_scores, kept, encoder.device)
        return encoder._quick()

    def _quick(self) -> SparseEncoder:
        self.model = accelerate(self.model)
        return self

    @property
    def dimension(self) -> int:
        """V."""
        return self.model.settings.vocab_size

    @property
    def max_content_tokens(self) -> int:
        """Tokens of a text that are read whole, special tokens not counted."""
        return self.max_length - 2

    @property
    def fingerprint(self) -> str:
        """Differs when any text could get another vector."""
        digest = hashlib.sha256(f"{self.settings}{self.tokenizer.fingerprint}".encode())
        for module in (self.model,) if self.head is None else (self.model, self.head):
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return digest.hexdigest()[:32]

    def encode(
        self,
        texts: Sequence[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
    ) -> SparseEmbeddings:
        """The vectors of all texts, in order. A text in several windows (`truncate` = "chunk") has the highest weight
        that any of them gives a word. They are read as queries where `prompt` is "query"; this name and "document" are
        known whether a prompt is stored under them or not. Raises as `Embedder.encode`."""
        if prompt == QUERY and self.settings.query_encoding == "bow":
            return bag_of_words(self.tokenizer, texts)
        known = prompt in self.settings.prompts or prompt not in (QUERY, DOCUMENT)
        before = prompt_of(self.settings.prompts, prompt) if known else ""
        ids = self.tokenizer.encode_batch([before + text for text in texts])
        found, dropped = split_into_windows(ids, self.max_content_tokens, parse_truncate(truncate))
        owner = np.array([window.text for window in found], np.int64)
        lengths = np.array([len(window.ids) + 2 for window in found], np.int64)
        rows: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int32), np.zeros(0, np.float32))] * len(found)
        with torch.inference_mode():
            for numbers in batches_by_length(lengths, batch_tokens):
                sequences = [found[number].ids for number in numbers]
                batch = pack_sequences(sequences, self.tokenizer.cls_id, self.tokenizer.sep_id).to(self.device)
                for number, weights in zip(numbers, self.weights(batch).cpu(), strict=True):
                    words = weights.nonzero()[:, 0]
                    rows[number] = words.to(torch.int32).numpy(), weights[words].numpy()
        return self._joined(rows, owner, lengths, dropped)

    def weights(self, batch: Batch) -> Tensor:
        """(B, V) of a packed batch on the model's device."""
        if self.head is None:
            return vocabulary_weights(self.model, batch)
        return term_weights(self.model, self.head, batch, self.regular_tokens)

    def token_scores(self, batch: Batch) -> Tensor:
        """(T,) what the head gives each token of a packed batch, before negative ones become 0."""
        assert self.head is not None
        found: Tensor = self.head.scores(self.model.encoder(batch).hidden)
        return found

    def _joined(
        self,
        rows: list[tuple[np.ndarray, np.ndarray]],
        owner: np.ndarray,
        lengths: np.ndarray,
        dropped: np.ndarray,
    ) -> SparseEmbeddings:
        """Windows to texts."""
        words: list[np.ndarray] = [np.zeros(0, np.int32)]
        weights: list[np.ndarray] = [np.zeros(0, np.float32)]
        counts = np.zeros(len(dropped), np.int64)
        bounds = np.searchsorted(owner, np.arange(len(dropped) + 1))
        for text in range(len(dropped)):
            ids, values = _highest(rows[bounds[text] : bounds[text + 1]])
            if self.settings.keep is not None and len(ids) > self.settings.keep:
                kept = np.sort(np.argsort(-values, kind="stable")[: self.settings.keep])
                ids, values = ids[kept], values[kept]
            words.append(ids)
            weights.append(values)
            counts[text] = len(ids)
        tokens = np.bincount(owner, weights=lengths, minlength=len(dropped)).astype(np.int64)
        return SparseEmbeddings(np.cumsum(counts), np.concatenate(words), np.concatenate(weights), tokens, dropped)


def vocabulary_weights(model: Model, batch: Batch) -> Tensor:
    """(B, V) float32 weights ≥ 0 of the words for each sequence of a packed batch."""
    # The highest score first: log(1 + relu(·)) keeps the order, and is computed once a sequence, not once a token.
    return torch.log1p(torch.relu(vocabulary_scores(model, batch)))


def vocabulary_scores(model: Model, batch: Batch) -> Tensor:
    """(B, V) float32 the head's highest score of each word over the tokens of each sequence."""
    logits = model.mlm_head(model.encoder(batch).hidden, model.encoder).float()
    return torch.stack([part.amax(0) for part in logits.split(list(batch.layout.lengths))])


def term_weights(model: Model, head: TermHead, batch: Batch, ordinary: Tensor) -> Tensor:
    """(B, V) float32 weights ≥ 0 of the tokens of each sequence of a packed batch; those that are not `ordinary` (V,)
    bool have none."""
    vocab, ids = model.settings.vocab_size, batch.ids.long()
    weights = head(model.encoder(batch).hidden) * ordinary[ids]
    place = batch.layout.sequence_ids * vocab + ids
    none = weights.new_zeros(len(batch) * vocab)
    found: Tensor = none.scatter_reduce(0, place, weights, "amax").view(len(batch), vocab)
    return found


def token_counts(batch: Batch, vocab: int, ordinary: Tensor) -> Tensor:
    """(B, V) float32 how often each `ordinary` token occurs in each sequence of a packed batch."""
    place = batch.layout.sequence_ids * vocab + batch.ids.long()
    found = torch.zeros(len(batch) * vocab, device=batch.ids.device)
    return found.index_add(0, place, ordinary[batch.ids.long()].float()).view(len(batch), vocab)


def bag_of_words(tokenizer: Tokenizer, texts: Sequence[str]) -> SparseEmbeddings:
    """Texts of any length as their tokens, each as often as it occurs; special ones are passed over."""
    ids = tokenizer.encode_batch(list(texts))
    special = np.array(sorted(tokenizer.special_ids), np.int64)
    pairs = [np.unique(some[~np.isin(some, special)].astype(np.int32), return_counts=True) for some in ids]
    words = [np.zeros(0, np.int32), *(found for found, _ in pairs)]
    counts = [np.zeros(0, np.float32), *(number.astype(np.float32) for _, number in pairs)]
    ends = np.cumsum([len(found) for found, _ in pairs], dtype=np.int64)
    tokens = np.array([len(some) for some in ids], np.int64)
    return SparseEmbeddings(ends, np.concatenate(words), np.concatenate(counts), tokens, np.zeros(len(ids), np.int64))


def regular_tokens(tokenizer: Tokenizer, vocab: int) -> Tensor:
    """(V,) bool: the tokens that are not special; what is unknown is special too, since it may be anything."""
    found = torch.ones(vocab, dtype=torch.bool)
    found[sorted(number for number in tokenizer.special_ids if number < vocab)] = False
    return found


def check_head(model: Model, terms: SparseTerms, head: nn.Module | None) -> None:
    """Raises `SettingsError` where what gives the weights is not there."""
    if terms == "vocabulary" and "mlm" not in model.heads:
        raise SettingsError("Sparse vectors are made by the masked-language-model head, and this model has none.")
    if (terms == "tokens") != (head is not None):
        raise SettingsError(f"weighed = '{terms}': {'needs' if head is None else 'has no use for'} a head of its own.")


def _highest(rows: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(rows) == 1:
        return rows[0]
    ids = np.concatenate([words for words, _ in rows])
    values = np.concatenate([weights for _, weights in rows])
    found, where = np.unique(ids, return_inverse=True)
    highest = np.zeros(len(found), np.float32)
    np.maximum.at(highest, where, values)
    return found, highest
