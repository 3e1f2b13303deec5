"""Weights of the words of passages, by a model or stored once for a whole index; queries for both.

Stored: an artifact of kind "weights", found by a passage's text, with the tokenizer, so that where queries are counted
(`encoders/sparse.py`) nothing else is needed; a passage that is not there is encoded by the model it was made with.
Shapes: P passages stored, W words of them all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.numpy

from encodery.base.artifact import MANIFEST, Artifact, create_artifact
from encodery.base.errors import ArtifactError, EmptyInput
from encodery.base.settings import decode, encode
from encodery.encoders import QUERY
from encodery.encoders.embeddings import SparseEmbeddings
from encodery.encoders.sparse import KEY, SparseEncoder, SparseSettings, bag_of_words
from encodery.model.load import TOKENIZER, copy_tokenizer, load_model
from encodery.tokens.tokenizer import Tokenizer

KIND, FILE = "weights", "weights.safetensors"
DIGEST = 16
"""Bytes by which a text is known."""
AT_ONCE = 1024

TermRow = tuple[np.ndarray, np.ndarray]
"""Words of a text, rising, and their weights."""


class TermSource(Protocol):
    """What gives words and weights."""

    def query(self, text: str) -> TermRow:
        """Of a query."""

    def passages(self, texts: Sequence[str]) -> dict[str, TermRow]:
        """Of passages, by their text."""


class ModelTerms:
    """By a model of sparse vectors."""

    def __init__(self, encoder: SparseEncoder) -> None:
        self.encoder = encoder

    def query(self, text: str) -> TermRow:
        """See `Weights`. A query longer than the model takes is read in windows."""
        return self.encoder.encode([text], truncate="chunk", prompt=QUERY).at(0)

    def passages(self, texts: Sequence[str]) -> dict[str, TermRow]:
        """See `Weights`."""
        found = self.encode(texts)
        return {text: found.at(number) for number, text in enumerate(texts)}

    def encode(self, texts: Sequence[str]) -> SparseEmbeddings:
        """Passages, each read whole."""
        return self.encoder.encode(texts, truncate="chunk", prompt="document")


class PrecomputedTerms:
    """An artifact of weights."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact, told = artifact, artifact.manifest.settings
        self.settings = decode(SparseSettings, told[KEY], where=f"{artifact.path}: {KEY}")
        try:
            held = safetensors.numpy.load_file(artifact.path / FILE)
        except (safetensors.SafetensorError, OSError) as error:
            raise ArtifactError(f"{artifact.path / FILE}: damaged or incomplete: {error}") from error
        self._keys = held["keys"].view(f"S{DIGEST}")[:, 0] if len(held["keys"]) else np.zeros(0, f"S{DIGEST}")
        self._ends, self._words, self._weights = held["ends"], held["words"], held["weights"]

    @staticmethod
    def is_at(folder: Path) -> bool:
        """Whether a folder is such an artifact."""
        return (folder / MANIFEST).is_file() and Artifact.open(folder).manifest.kind == KIND

    @classmethod
    def open(cls, folder: Path) -> PrecomputedTerms:
        """From the disk. Raises `ArtifactError` for what is damaged or something else."""
        return cls(Artifact.open(folder, KIND))

    def __len__(self) -> int:
        return len(self._keys)

    def query(self, text: str) -> TermRow:
        """See `Weights`."""
        return (
            bag_of_words(self._tokenizer, [text]).at(0)
            if self.settings.query_encoding == "bow"
            else self._model.query(text)
        )

    def passages(self, texts: Sequence[str]) -> dict[str, TermRow]:
        """See `Weights`. Raises `ArtifactError` where one is not stored, and the model is gone or another one."""
        found = {text: row for text in texts if (row := self._row(text)) is not None}
        missing = [text for text in texts if text not in found]
        return found | (self._model.passages(missing) if missing else {})

    def _row(self, text: str) -> TermRow | None:
        key = np.frombuffer(_digest(text), f"S{DIGEST}")[0]
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            return None
        part = slice(int(self._ends[place - 1]) if place else 0, int(self._ends[place]))
        return self._words[part], self._weights[part]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.artifact.path / TOKENIZER)

    @cached_property
    def _model(self) -> ModelTerms:
        told = self.artifact.manifest.settings["model"]
        where = f"{self.artifact.path}: was made with the model at '{told['path']}'"
        if not Path(told["path"]).exists():
            raise ArtifactError(f"{where}, which is not there, and is needed for what was not stored.")
        found = model_terms_of(told["path"])
        if found.encoder.fingerprint != told["fingerprint"]:
            raise ArtifactError(f"{where}, which is another one now: its weights cannot be mixed with those stored.")
        return found


def model_terms_of(folder: str | Path) -> ModelTerms:
    """A model of sparse vectors, ready. Raises `SettingsError` for a model that is none."""
    return ModelTerms(SparseEncoder.from_loaded(load_model(folder)))


def precompute_terms(
    texts: Iterable[str], model: str | Path, out: str | Path, progress: Callable[[int], None] | None = None
) -> Artifact:
    """Store the weights of passages, each text once, as the artifact `out`; `progress` is called with how many were
    encoded. Raises `EmptyInput` for no passage, `SettingsError` for a model of another kind, `DiskFull`.
    """
    loaded = load_model(model)
    source = ModelTerms(SparseEncoder.from_loaded(loaded))
    rows: dict[bytes, TermRow] = {}
    for some in _new(texts, rows):
        found = source.encode(some)
        rows |= {_digest(text): found.at(number) for number, text in enumerate(some)}
        if progress is not None:
            progress(len(some))
    if not rows:
        raise EmptyInput("There is no passage to weigh.")
    assert loaded.tokenizer_path is not None  # the encoder has read it
    order = sorted(rows)
    tensors: dict[str, np.ndarray] = {
        "keys": np.frombuffer(b"".join(order), np.uint8).reshape(-1, DIGEST),
        "ends": np.cumsum([len(rows[key][0]) for key in order], dtype=np.int64),
        "words": np.concatenate([rows[key][0] for key in order]),
        "weights": np.concatenate([rows[key][1] for key in order]),
    }
    told = {"path": str(Path(model).resolve()), "fingerprint": source.encoder.fingerprint}
    settings = {"model": told, KEY: encode(source.encoder.settings)}
    parents = {} if loaded.artifact is None else {"model": loaded.artifact}
    with create_artifact(out, KIND, settings, parents) as draft:
        safetensors.numpy.save_file(tensors, draft.path / FILE)
        copy_tokenizer(loaded.tokenizer_path, draft.path / TOKENIZER)
        draft.metrics.update(passages=len(order), words=len(tensors["words"]))
    return Artifact.open(out, KIND)


def _new(texts: Iterable[str], known: dict[bytes, TermRow]) -> Iterator[list[str]]:
    """Lists of texts that are not `known` yet, which grows between them."""
    some: dict[str, None] = {}
    for text in texts:
        if _digest(text) not in known:
            some[text] = None
        if len(some) == AT_ONCE:
            yield list(some)
            some = {}
    if some:
        yield list(some)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest()
