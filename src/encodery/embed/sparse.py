"""Learned sparse vectors: a weight for each word of the vocabulary, most of them zero. arXiv:2107.05720 (SPLADE)

The masked-language-model head says of each token which words could stand there; the highest of log(1 + relu(score))
over the tokens of a text is the word's weight. So a text gets words that it does not contain, and a search by words
finds it.
Shapes: N texts, T tokens of a batch, B sequences, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.machine import device as machine_device
from encodery.base.settings import decode
from encodery.embed.embedder import BATCH_TOKENS, packed
from encodery.embed.settings import prompt_of
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.tokens.windows import batches, checked, windows

if TYPE_CHECKING:
    from encodery.model.load import Loaded
    from encodery.tokens.tokenizer import Tokenizer

KEY = "sparse"


@dataclass(frozen=True, kw_only=True)
class SparseSettings:
    """How a model's sparse vectors are made; stored with it as `sparse`. `max_length` and `prompts` as for embeddings;
    `keep`: at most so many words of a text, the heaviest; all if not given."""

    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    keep: int | None = None


@dataclass(frozen=True, eq=False)
class SparseVectors:
    """N sparse vectors: those of text i are `words[ends[i-1]:ends[i]]` (int32 ids, rising) with their `weights`;
    `tokens` (N,) that were read, `dropped` (N,) that the truncation left out."""

    ends: np.ndarray
    words: np.ndarray
    weights: np.ndarray
    tokens: np.ndarray
    dropped: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Words and weights of one text."""
        part = slice(int(self.ends[number - 1]) if number else 0, int(self.ends[number]))
        return self.words[part], self.weights[part]


class SparseEncoder:
    """A model with a masked-language-model head, its tokenizer and settings."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        settings: SparseSettings | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.settings = settings or SparseSettings()
        self.device = torch.device(device) if device is not None else machine_device()
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.max_length = min(self.settings.max_length or model.settings.max_length, model.settings.max_length)
        if "mlm" not in model.heads:
            raise SettingsError("Sparse vectors are made by the masked-language-model head, and this model has none.")

    @classmethod
    def of(cls, loaded: Loaded, device: torch.device | str | None = None) -> SparseEncoder:
        """The encoder of a loaded model. Raises `SettingsError` where the model was not trained for sparse vectors."""
        if KEY not in loaded.settings:
            raise SettingsError(f"{loaded.path}: was not trained for sparse vectors (recipe splade).")
        settings = decode(SparseSettings, loaded.settings[KEY], where=f"{loaded.path}: {KEY}")
        return cls(loaded.model, loaded.tokenizer, settings, device)

    @property
    def width(self) -> int:
        """V."""
        return self.model.settings.vocab

    @property
    def longest(self) -> int:
        """Tokens of a text that are read whole, special tokens not counted."""
        return self.max_length - 2

    @property
    def fingerprint(self) -> str:
        """Differs when any text could get another vector."""
        digest = hashlib.sha256(f"{self.settings}{self.tokenizer.fingerprint}".encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return digest.hexdigest()[:32]

    def encode(
        self,
        texts: Sequence[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
    ) -> SparseVectors:
        """The vectors of all texts, in order. A text in several windows (`truncate` = "chunk") has the highest weight
        that any of them gives a word. Raises as `Embedder.encode`."""
        before = prompt_of(self.settings.prompts, prompt)
        ids = self.tokenizer.encode_batch([before + text for text in texts])
        found, dropped = windows(ids, self.longest, checked(truncate))
        owner = np.array([window.text for window in found], np.int64)
        lengths = np.array([len(window.ids) + 2 for window in found], np.int64)
        rows: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int32), np.zeros(0, np.float32))] * len(found)
        with torch.inference_mode():
            for numbers in batches(lengths, batch_tokens):
                sequences = [found[number].ids for number in numbers]
                batch = packed(sequences, self.tokenizer.cls_id, self.tokenizer.sep_id).to(self.device)
                for number, weights in zip(numbers, word_weights(self.model, batch).cpu(), strict=True):
                    words = weights.nonzero()[:, 0]
                    rows[number] = words.to(torch.int32).numpy(), weights[words].numpy()
        return self._joined(rows, owner, lengths, dropped)

    def _joined(
        self,
        rows: list[tuple[np.ndarray, np.ndarray]],
        owner: np.ndarray,
        lengths: np.ndarray,
        dropped: np.ndarray,
    ) -> SparseVectors:
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
        return SparseVectors(np.cumsum(counts), np.concatenate(words), np.concatenate(weights), tokens, dropped)


def word_weights(model: Model, batch: Batch) -> Tensor:
    """(B, V) float32 weights ≥ 0 of the words for each sequence of a packed batch."""
    logits = model.mlm(model.encoder(batch).hidden, model.encoder).float()
    # The highest score first: log(1 + relu(·)) keeps the order, and is computed once a sequence, not once a token.
    highest = torch.stack([part.amax(0) for part in logits.split(list(batch.layout.lengths))])
    return torch.log1p(torch.relu(highest))


def _highest(rows: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(rows) == 1:
        return rows[0]
    ids = np.concatenate([words for words, _ in rows])
    values = np.concatenate([weights for _, weights in rows])
    found, where = np.unique(ids, return_inverse=True)
    highest = np.zeros(len(found), np.float32)
    np.maximum.at(highest, where, values)
    return found, highest
