"""Where an index's passages come from: documents that are read, cut and encoded, or a folder of encoded ones."""

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
from encodery.search.runtime_provenance import TORCH
from encodery.search.sample import sample_documents
from encodery.search.store import Point
from encodery.search.writer import DocumentPassages, encode_points

Models = dict[str, dict[str, Any]]
"""mode -> fingerprint, width and path of the model, and the runtime that runs it."""


class PassageSource(abc.ABC):
    """Passages for an index. `sides`: the models that are there; `encoders`: those that passages still need; `models`:
    what the index notes of all it is made with. `skipped`: reason -> rows, files or documents left out."""

    sources: Sequence[str]
    fingerprint: str
    parents: dict[str, Artifact]
    models: Models
    retrievers: tuple[ModelRetriever, ...] = ()
    pending_retrievers: tuple[ModelRetriever, ...] = ()

    @property
    @abc.abstractmethod
    def skipped(self) -> Counter[str]:
        """See the class."""

    @abc.abstractmethod
    def documents(self, start: int) -> Iterator[DocumentPassages]:
        """All documents but the first `start`, in the same order every time."""

    @abc.abstractmethod
    def sample(self) -> list[Point]:
        """Some passages with what each model gives them, raw."""


class DocumentSource(PassageSource):
    """Documents read, cut by the first model's tokens, and encoded."""

    def __init__(
        self, sources: Sequence[str | Path], given: DocumentInput, passages: Passages, sides: tuple[ModelRetriever, ...]
    ) -> None:
        self.sources = [str(source) for source in sources]
        self.input, self.passages = given, passages
        self.fingerprint = given.fingerprint
        self.parents = {f"corpus{i or ''}": corpus for i, corpus in enumerate(given.corpora)}
        self.retrievers = self.pending_retrievers = sides
        self.models: Models = {}

    @property
    def cutter(self) -> ModelRetriever | None:
        """Whose tokens measure passages; None: words."""
        return self.retrievers[0] if self.retrievers else None

    @property
    def skipped(self) -> Counter[str]:
        return self.input.skipped

    def documents(self, start: int, step: int = 1, rest: int = 0) -> Iterator[DocumentPassages]:
        """Of them only those whose number leaves `rest` when divided by `step`: others are read, but not cut."""
        self.input.skipped.clear()
        for number, document in itertools.islice(enumerate(self.input.documents()), start, None):
            if number % step == rest:
                yield DocumentPassages(document.id, self.passages.points(document, self.cutter), number)

    def sample(self) -> list[Point]:
        if self.cutter is None:
            return []
        return encode_points(
            sample_documents(self.input.documents(), self.passages, self.cutter), self.retrievers, Counter()
        )


def model_records(retrievers: Sequence[ModelRetriever], paths: Any) -> Models:
    """What is noted of models. `paths`: mode -> where each lies; or the place of the only one, or None."""
    if not isinstance(paths, dict):
        if paths is not None and len(retrievers) > 1:
            raise InputError("Several models: say of each where it lies, {mode: path}.")
        paths = {side.mode: paths for side in retrievers}
    where = {mode: "" if path is None else str(Path(path).resolve()) for mode, path in paths.items()}
    return {
        s.mode: {
            "fingerprint": s.fingerprint,
            "width": s.dim,
            "path": where.get(s.mode, ""),
            "runtime": s.provenance.to_dict(),
        }
        for s in retrievers
    }


def comparable_settings(value: Any) -> Any:
    """A plan's value without where models and exports lie, which may change or differ between machines, and without
    what older versions did not note, having nothing else."""
    if not isinstance(value, dict):
        return value
    kept = {key: comparable_settings(item) for key, item in value.items() if key != "path" and item != TORCH.to_dict()}
    return {key: item for key, item in kept.items() if (key, item) != ("vectors", "fp32")}
