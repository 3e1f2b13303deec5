"""A model that encodery loads: its own artifact or run, or a folder of Hugging Face or sentence-transformers.

It is measured as what it was trained to give: a vector for a text, weights of words (SPLADE), or a vector for each
token (ColBERT); where a suite asks for them, the answers of a task's head. Packed batches: it computes no padding.
Shapes: N texts, K width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from encodery.base.errors import InputError, nearest
from encodery.evaluate.systems import OpenSystem, Role, Run, System, UnsupportedEvaluation, Vectors

if TYPE_CHECKING:
    from encodery.finetune.predict import Predictor
    from encodery.model.load import LoadedModel

DOCUMENTS_AT_ONCE = 1024
"""Of which a vector for each token is held."""


@dataclass(frozen=True, kw_only=True)
class ModelSystem(System):
    """`path`: a model, a run, a folder or a name on the hub. `truncate` is for texts longer than the model takes where
    vectors are made of them; a task's head reads them as in training.

    `query` and `document` name the stored prompts put before either; by default prompts of those very names, if any,
    and always where a model reads the two sides each in its own way, as sparse and token vectors do.
    """

    path: str
    name: str = ""
    truncate: str = "chunk"
    query: str = ""
    document: str = ""

    @property
    def label(self) -> str:
        return self.name or Path(self.path).name or self.path

    def open(self) -> OpenSystem:
        from encodery.encoders import multi_vector, sparse
        from encodery.model.load import load_model

        loaded = load_model(self.path)
        if sparse.KEY in loaded.settings:
            return _Sparse(self, loaded)
        return _Late(self, loaded) if multi_vector.KEY in loaded.settings else _Dense(self, loaded)


class _Loaded(OpenSystem):
    def __init__(self, settings: ModelSystem, loaded: LoadedModel) -> None:
        super().__init__(settings.label)
        self._loaded, self._truncate = loaded, settings.truncate
        self.task = loaded.settings.get("task", {}).get("is", "")
        self.training_data = loaded.settings.get("recipe", {}).get("inputs", {}).get("data", "") if self.task else ""

    def loaded(self) -> LoadedModel:
        if "mlm" not in self._loaded.model.heads:
            raise UnsupportedEvaluation(
                f"{self._loaded.path}: has no masked-language-model head, so it cannot be asked for its guesses; "
                "embedding models often lost theirs."
            )
        return self._loaded

    def predictor(self) -> Predictor:
        from encodery.finetune.artifact import imported_head
        from encodery.finetune.predict import Predictor

        if not self.task and imported_head(self._loaded) is None:
            raise UnsupportedEvaluation(
                f"{self.name}: {self._loaded.path} has no head of a task; `encodery finetune TASK DATA --model "
                f"{self._loaded.path}` gives it one."
            )
        return Predictor.from_model(self._loaded)


class _Dense(_Loaded):
    def __init__(self, settings: ModelSystem, loaded: LoadedModel) -> None:
        from encodery.encoders.dense import DenseEncoder

        super().__init__(settings, loaded)
        self._embedder = DenseEncoder.from_loaded(loaded)
        known = self._embedder.settings.prompts
        for name in (settings.query, settings.document):
            if name and name not in known:
                raise InputError(
                    f"{settings.path}: stores no prompt '{name}'.{nearest(name, known)} It has "
                    f"{', '.join(known) or 'none'}."
                )
        self._prompts: dict[str, str | None] = {
            "query": settings.query or ("query" if "query" in known else None),
            "document": settings.document or ("document" if "document" in known else None),
        }

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        prompt = None if role is None else self._prompts[role]
        with self.counters.clock():
            found = self._embedder.encode(texts, self._truncate, prompt=prompt)
        self.counters.add(len(texts), int(found.tokens.sum()), 0, int(found.dropped.sum()))
        return found.vectors


class _Sided(_Loaded):
    symmetric = False

    def __init__(self, settings: ModelSystem, loaded: LoadedModel) -> None:
        super().__init__(settings, loaded)
        for name, said in (("query", settings.query), ("document", settings.document)):
            if said not in ("", name):
                raise InputError(
                    f"{settings.path}: {name} = '{said}': this model's queries and documents have their own."
                )


class _Sparse(_Sided):
    """Weights of words, compared by inner product as they were trained to be."""

    def __init__(self, settings: ModelSystem, loaded: LoadedModel) -> None:
        from encodery.encoders.sparse import SparseEncoder

        super().__init__(settings, loaded)
        self._encoder = SparseEncoder.from_loaded(loaded)

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        from encodery.base.extras import require

        with self.counters.clock():
            found = self._encoder.encode(texts, self._truncate, prompt=role)
        self.counters.add(len(texts), int(found.tokens.sum()), 0, int(found.dropped.sum()))
        starts = np.concatenate([[0], found.ends])
        made: Vectors = require("scipy.sparse", "evaluate").csr_matrix(
            (found.weights, found.term_ids, starts), shape=(len(texts), self._encoder.dimension)
        )
        return made


class _Late(_Sided):
    """A vector for each token, compared by MaxSim; some documents at a time, since they are large."""

    def __init__(self, settings: ModelSystem, loaded: LoadedModel) -> None:
        from encodery.encoders.multi_vector import MultiVectorEncoder

        super().__init__(settings, loaded)
        self._encoder = MultiVectorEncoder.from_loaded(loaded)

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        raise UnsupportedEvaluation(f"{self.name}: gives a vector for each token; only retrieval can be measured so.")

    def rank(self, queries: Mapping[str, str], documents: Mapping[str, str], depth: int) -> Run:
        from encodery.encoders.embeddings import MultiVectorEmbeddings

        def read(texts: Sequence[str], side: Role) -> MultiVectorEmbeddings:
            with self.counters.clock():
                found = self._encoder.encode(texts, self._truncate, prompt=side)
            self.counters.add(len(texts), None, 0, int(found.dropped.sum()))
            return found

        names, asked = list(documents), read(list(queries.values()), "query")
        found: Run = {query: {} for query in queries}
        for start in range(0, len(names), DOCUMENTS_AT_ONCE):
            some = names[start : start + DOCUMENTS_AT_ONCE]
            scores = asked.similarity(read([documents[name] for name in some], "document"))
            for query, row in zip(queries, scores.tolist(), strict=True):
                best = sorted({**found[query], **dict(zip(some, row, strict=True))}.items(), key=lambda one: -one[1])
                found[query] = dict(best[:depth])
        return found
