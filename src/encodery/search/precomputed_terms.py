"""Term weights of passages, computed by a model, or once for a whole index and stored; and the terms of queries.

Stored weights are an artifact of kind "weights" and are looked up by the text of a passage. The artifact contains the
tokenizer, so that nothing else is needed if queries are bags of words (`encoders/sparse.py`); a passage that is not
stored is encoded by the model that made the others. Shapes: P passages stored, W terms of all of them."""

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
"""Bytes of the digest that identifies a text."""
AT_ONCE = 1024

TermRow = tuple[np.ndarray, np.ndarray]
"""Term ids of a text, rising, and their weights."""


class TermSource(Protocol):
    """Anything that returns terms and weights of texts."""

    def query(self, text: str) -> TermRow:
        """Return the terms of a query."""

    def passages(self, texts: Sequence[str]) -> dict[str, TermRow]:
        """Return the terms of passages, by their text."""


class ModelTerms:
    """Terms by a sparse embedding model."""

    def __init__(self, encoder: SparseEncoder) -> None:
        self.encoder = encoder

    def query(self, text: str) -> TermRow:
        """See `TermSource`. A query that is longer than the model allows is encoded in windows."""
        return self.encoder.encode([text], truncate="chunk", prompt=QUERY).at(0)

    def passages(self, texts: Sequence[str]) -> dict[str, TermRow]:
        """See `TermSource`."""
        embeddings = self.encode(texts)
        return {text: embeddings.at(number) for number, text in enumerate(texts)}

    def encode(self, texts: Sequence[str]) -> SparseEmbeddings:
        """Return the embeddings of passages; a long one is encoded completely, in windows."""
        return self.encoder.encode(texts, truncate="chunk", prompt="document")


class PrecomputedTerms:
    """Terms from an artifact of weights."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact, stored = artifact, artifact.manifest.settings
        self.settings = decode(SparseSettings, stored[KEY], where=f"{artifact.path}: {KEY}")
        try:
            tensors = safetensors.numpy.load_file(artifact.path / FILE)
        except (safetensors.SafetensorError, OSError) as error:
            raise ArtifactError(f"{artifact.path / FILE}: damaged or incomplete: {error}") from error
        self._keys = tensors["keys"].view(f"S{DIGEST}")[:, 0] if len(tensors["keys"]) else np.zeros(0, f"S{DIGEST}")
        self._ends, self._term_ids, self._weights = tensors["ends"], tensors["term_ids"], tensors["weights"]

    @staticmethod
    def is_at(folder: Path) -> bool:
        """Return whether a folder is such an artifact."""
        return (folder / MANIFEST).is_file() and Artifact.open(folder).manifest.kind == KIND

    @classmethod
    def open(cls, folder: Path) -> PrecomputedTerms:
        """Open an artifact. Raises `ArtifactError` if it is damaged or of another kind."""
        return cls(Artifact.open(folder, KIND))

    def __len__(self) -> int:
        return len(self._keys)

    def query(self, text: str) -> TermRow:
        """See `TermSource`."""
        return (
            bag_of_words(self._tokenizer, [text]).at(0)
            if self.settings.query_encoding == "bow"
            else self._model.query(text)
        )

    def passages(self, texts: Sequence[str]) -> dict[str, TermRow]:
        """See `TermSource`. Raises `ArtifactError` if a passage is not stored and the model is missing or has
        changed."""
        known = {text: row for text in texts if (row := self._row(text)) is not None}
        missing = [text for text in texts if text not in known]
        return known | (self._model.passages(missing) if missing else {})

    def _row(self, text: str) -> TermRow | None:
        key = np.frombuffer(_digest(text), f"S{DIGEST}")[0]
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            return None
        part = slice(int(self._ends[place - 1]) if place else 0, int(self._ends[place]))
        return self._term_ids[part], self._weights[part]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.artifact.path / TOKENIZER)

    @cached_property
    def _model(self) -> ModelTerms:
        record = self.artifact.manifest.settings["model"]
        where = f"{self.artifact.path}: was made with the model at '{record['path']}'"
        if not Path(record["path"]).exists():
            raise ArtifactError(
                f"{where}, which does not exist. It is needed for passages whose weights are not stored."
            )
        terms = model_terms_of(record["path"])
        if terms.encoder.fingerprint != record["fingerprint"]:
            raise ArtifactError(f"{where}, which has changed: its weights cannot be mixed with those that are stored.")
        return terms


def model_terms_of(folder: str | Path) -> ModelTerms:
    """Load a sparse embedding model. Raises `SettingsError` for a model of another kind."""
    return ModelTerms(SparseEncoder.from_loaded(load_model(folder)))


def precompute_terms(
    texts: Iterable[str], model: str | Path, out: str | Path, progress: Callable[[int], None] | None = None
) -> Artifact:
    """Store the term weights of passages, each distinct text once, as the artifact `out`.

    Args:
        progress: is called with the number of texts that were just encoded.

    Raises `EmptyInput` if there is no passage, `SettingsError` for a model of another kind, and `DiskFull`.
    """
    loaded = load_model(model)
    source = ModelTerms(SparseEncoder.from_loaded(loaded))
    rows: dict[bytes, TermRow] = {}
    for some in _new(texts, rows):
        embeddings = source.encode(some)
        rows |= {_digest(text): embeddings.at(number) for number, text in enumerate(some)}
        if progress is not None:
            progress(len(some))
    if not rows:
        raise EmptyInput("The index has no passages.")
    assert loaded.tokenizer_path is not None  # the encoder has read it
    order = sorted(rows)
    tensors: dict[str, np.ndarray] = {
        "keys": np.frombuffer(b"".join(order), np.uint8).reshape(-1, DIGEST),
        "ends": np.cumsum([len(rows[key][0]) for key in order], dtype=np.int64),
        "term_ids": np.concatenate([rows[key][0] for key in order]),
        "weights": np.concatenate([rows[key][1] for key in order]),
    }
    record = {"path": str(Path(model).resolve()), "fingerprint": source.encoder.fingerprint}
    settings = {"model": record, KEY: encode(source.encoder.settings)}
    parents = {} if loaded.artifact is None else {"model": loaded.artifact}
    with create_artifact(out, KIND, settings, parents) as draft:
        safetensors.numpy.save_file(tensors, draft.path / FILE)
        copy_tokenizer(loaded.tokenizer_path, draft.path / TOKENIZER)
        draft.metrics.update(passages=len(order), terms=len(tensors["term_ids"]))
    return Artifact.open(out, KIND)


def _new(texts: Iterable[str], known: dict[bytes, TermRow]) -> Iterator[list[str]]:
    """Lists of texts that are not in `known` yet, which grows between them."""
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
