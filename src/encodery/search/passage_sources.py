"""Sources of the passages of an index: documents that are read, divided and encoded, or a folder of encoded ones."""

from __future__ import annotations

import abc
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.base.errors import InputError
from encodery.search.documents import DocumentInput
from encodery.search.passages import Passages
from encodery.search.retrievers import ModelRetriever
from encodery.search.sample import sample_documents
from encodery.search.store import Point
from encodery.search.writer import DocumentPassages, encode_points

ModelRecords = dict[str, dict[str, Any]]
"""Mode -> `fingerprint`, `dim` and `path` of the model, and the `runtime` that runs it."""


class PassageSource(abc.ABC):
    """Passages for an index.

    Attributes:
        sources: names of the inputs.
        fingerprint: of the inputs.
        parents: the artifacts that the passages come from.
        models: the records of all models the index is built with.
        retrievers: those of these models that are at hand.
        pending_retrievers: those that the passages still have to be encoded with.
    """

    sources: Sequence[str]
    fingerprint: str
    parents: dict[str, Artifact]
    models: ModelRecords
    retrievers: tuple[ModelRetriever, ...] = ()
    pending_retrievers: tuple[ModelRetriever, ...] = ()

    @property
    @abc.abstractmethod
    def skipped(self) -> Counter[str]:
        """Reason -> number of rows, files or documents that were left out."""

    @abc.abstractmethod
    def documents(self, start: int) -> Iterator[DocumentPassages]:
        """Yield all documents but the first `start`, in the same order every time."""

    def first_texts(self, number: int) -> Iterator[str]:
        """Yield the texts of the passages of the first documents."""
        for document in itertools.islice(self.documents(0), number):
            yield from (point.text for point in document.passages)

    @abc.abstractmethod
    def sample(self) -> list[Point]:
        """Return some passages with the embeddings of every model, before post-processing."""


class DocumentSource(PassageSource):
    """Documents that are read, divided by the tokens of the first model, and encoded."""

    def __init__(
        self,
        sources: Sequence[str | Path],
        documents: DocumentInput,
        passages: Passages,
        retrievers: tuple[ModelRetriever, ...],
    ) -> None:
        self.sources = [str(source) for source in sources]
        self.input, self.passages = documents, passages
        self.fingerprint = documents.fingerprint
        self.parents = {f"corpus{i or ''}": corpus for i, corpus in enumerate(documents.corpora)}
        self.retrievers = self.pending_retrievers = retrievers
        self.models: ModelRecords = {}

    @property
    def first_retriever(self) -> ModelRetriever | None:
        """The model whose tokens measure passages; None: words do."""
        return self.retrievers[0] if self.retrievers else None

    @property
    def skipped(self) -> Counter[str]:
        return self.input.skipped

    def documents(self, start: int, step: int = 1, remainder: int = 0) -> Iterator[DocumentPassages]:
        """Yield the documents from `start` whose number modulo `step` is `remainder`; the others are only read."""
        self.input.skipped.clear()
        for number, document in itertools.islice(enumerate(self.input.documents()), start, None):
            if number % step == remainder:
                yield DocumentPassages(document.id, self.passages.points(document, self.first_retriever), number)

    def sample(self) -> list[Point]:
        if self.first_retriever is None:
            return []
        points = sample_documents(self.input.documents(), self.passages, self.first_retriever)
        return encode_points(points, self.retrievers, Counter())


def model_records(retrievers: Sequence[ModelRetriever], paths: Any) -> ModelRecords:
    """Return what an index records of its models.

    Args:
        paths: mode -> folder of each model; or the folder of the only one, or None.

    Raises `InputError` if there are several models and the folder of each is not given by mode.
    """
    if not isinstance(paths, dict):
        if paths is not None and len(retrievers) > 1:
            raise InputError("Several models: give the folder of each as {mode: path}.")
        paths = {retriever.mode: paths for retriever in retrievers}
    folders = {mode: "" if path is None else str(Path(path).resolve()) for mode, path in paths.items()}
    return {
        retriever.mode: {
            "fingerprint": retriever.fingerprint,
            "dim": retriever.dim,
            "path": folders.get(retriever.mode, ""),
            "runtime": retriever.provenance.to_dict(),
        }
        for retriever in retrievers
    }


def comparable_settings(value: Any) -> Any:
    """Return a plan without the paths of models and exports, which may change and differ between machines."""
    if not isinstance(value, dict):
        return value
    return {key: comparable_settings(item) for key, item in value.items() if key != "path"}
