"""A model that encodery loads: its own artifact or run, or a folder of Hugging Face or sentence-transformers.

It is measured by the embeddings that it was trained for: dense, sparse (SPLADE) or multi-vector (ColBERT); and by the
answers of its task's head for the suites that need them. Its batches are packed, so that it computes no padding.
Shapes: N texts, K dimension of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

import numpy as np

from encodery.base.errors import InputError, nearest
from encodery.evaluate.systems import OpenSystem, Role, Run, System, UnsupportedEvaluation, Vectors

if TYPE_CHECKING:
    from encodery.encoders import TextEncoder
    from encodery.encoders.embeddings import TextEmbeddings
    from encodery.finetune.predict import Predictor
    from encodery.model.load import LoadedModel

DOCUMENTS_AT_ONCE = 1024
"""Documents whose multi-vector embeddings are held in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class ModelSystem(System):
    """Measure a model that encodery loads. Use it for own models and for folders of other libraries.

    `path`: a model, a run, a folder or a name on the hub. `truncate`: how texts longer than the model's maximum are
    embedded; a task's head truncates them as in training. `query`, `document`: the names of the stored prompts of
    these roles; by default the prompts that are called so, if there are any. A model that encodes the two roles
    differently, such as a sparse or multi-vector one, always uses the default.
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"no_masked_language_model"})  # It may have one.

    path: str
    name: str = ""
    truncate: str = "chunk"
    query: str = ""
    document: str = ""

    @property
    def label(self) -> str:
        return self.name or Path(self.path).name or self.path

    def open(self) -> OpenSystem:
        from encodery.encoders.loading import load_encoder
        from encodery.model.load import load_model

        loaded = load_model(self.path)
        return _OpenModel(self, loaded, load_encoder(loaded))


class _OpenModel(OpenSystem):
    """The text encoder of a model, of any kind, and its task head if it has one."""

    def __init__(self, settings: ModelSystem, loaded: LoadedModel, encoder: TextEncoder) -> None:
        super().__init__(settings.label)
        self._loaded, self._encoder, self._truncate = loaded, encoder, settings.truncate
        self.symmetric = encoder.symmetric
        self.task = loaded.settings.get("task", {}).get("is", "")
        self.training_data = loaded.settings.get("recipe", {}).get("inputs", {}).get("data", "") if self.task else ""
        self._prompts = {role: self._prompt(settings, role) for role in get_args(Role)}

    def _prompt(self, settings: ModelSystem, role: Role) -> str | None:
        """Return the name of the stored prompt of a role; None means the default. Raises `InputError` if it is
        unknown."""
        name: str = getattr(settings, role)
        if name in ("", role) and (not name or not self.symmetric):
            return None
        if not self.symmetric:
            raise InputError(
                f"{settings.path}: {role} = '{name}': a {self._encoder.kind} model reads a {role} with its own prompt; "
                f"leave {role} out."
            )
        known = self._encoder.prompts
        if name not in known:
            raise InputError(
                f"{settings.path}: stores no prompt '{name}'.{nearest(name, known)} Its prompts: "
                f"{', '.join(known) or 'none'}."
            )
        return name

    def _embed(self, texts: Sequence[str], role: Role | None) -> TextEmbeddings:
        prompt = None if role is None else self._prompts[role]
        with self.counters.clock():
            embeddings = self._encoder.encode(texts, self._truncate, prompt=prompt, role=role)
        self.counters.add(len(texts), int(embeddings.tokens.sum()), 0, int(embeddings.dropped.sum()))
        return embeddings

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        from encodery.base.extras import require
        from encodery.encoders.embeddings import DenseEmbeddings, SparseEmbeddings

        if self._encoder.kind == "multi_vector":
            raise UnsupportedEvaluation(
                f"{self.name}: computes multi-vector embeddings, which only retrieval can measure."
            )
        embeddings = self._embed(texts, role)
        if isinstance(embeddings, SparseEmbeddings):
            starts = np.concatenate([[0], embeddings.ends])
            matrix: Vectors = require("scipy.sparse", "evaluate").csr_matrix(
                (embeddings.weights, embeddings.term_ids, starts), shape=(len(texts), self._encoder.dimension)
            )
            return matrix
        assert isinstance(embeddings, DenseEmbeddings)
        return embeddings.vectors

    def rank(self, queries: Mapping[str, str], documents: Mapping[str, str], depth: int) -> Run | None:
        if self._encoder.kind != "multi_vector":
            return None
        encoded_queries = self._embed(list(queries.values()), "query")
        run: Run = {query: {} for query in queries}
        names = list(documents)
        for start in range(0, len(names), DOCUMENTS_AT_ONCE):
            part = names[start : start + DOCUMENTS_AT_ONCE]
            embeddings = self._embed([documents[name] for name in part], "document")
            scores = self._encoder.similarity(encoded_queries, embeddings)
            for query, row in zip(queries, scores.tolist(), strict=True):
                best = sorted({**run[query], **dict(zip(part, row, strict=True))}.items(), key=lambda one: -one[1])
                run[query] = dict(best[:depth])
        return run

    def loaded(self) -> LoadedModel:
        if "mlm" not in self._loaded.model.heads:
            raise UnsupportedEvaluation(
                f"{self._loaded.path}: has no masked-language-model head, so it cannot predict masked tokens; "
                "many embedding models are stored without it."
            )
        return self._loaded

    def predictor(self) -> Predictor:
        from encodery.finetune.artifact import imported_head
        from encodery.finetune.predict import Predictor

        if not self.task and imported_head(self._loaded) is None:
            raise UnsupportedEvaluation(
                f"{self.name}: {self._loaded.path} has no task head; train one with `encodery finetune TASK DATA "
                f"--model {self._loaded.path}`."
            )
        return Predictor.from_model(self._loaded)
