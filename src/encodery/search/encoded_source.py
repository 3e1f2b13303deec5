"""A folder of encoded documents (`encode.py`) as the source of an index: no model is run or needed.

Shapes: H dimension of a dense vector, n tokens of a passage, K dimension of a token's vector."""

from __future__ import annotations

import dataclasses
import heapq
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from encodery.base.artifact import MANIFEST, Artifact
from encodery.base.errors import ArtifactError, InputError
from encodery.base.settings import decode
from encodery.search.build import BuiltIndex, IndexSettings, Progress, build_from
from encodery.search.encode import (
    KIND,
    EncodeSettings,
    open_shards,
    part_files,
    read_part_note,
    read_plan,
    shard_folder,
)
from encodery.search.load_retrievers import as_retrievers
from encodery.search.passage_sources import PassageSource
from encodery.search.passages import Passages
from encodery.search.sample import sample_passages
from encodery.search.store import Point, SparseVector
from encodery.search.writer import DocumentPassages


class EncodedSource(PassageSource):
    """All documents of a folder, in their original order.

    Args:
        encoder: the model, or several, that encoded the documents, if at hand: then the weights of hybrid ranking can
            be measured.

    Raises `ArtifactError` for an unfinished folder and for a different model.
    """

    def __init__(self, folder: str | Path, encoder: Any = None) -> None:
        self.folder = Path(folder)
        plan = read_plan(self.folder)
        unfinished = open_shards(self.folder, plan["shards"])
        if unfinished or not (self.folder / MANIFEST).is_file():
            what = f"shards {', '.join(map(str, unfinished))} of {plan['shards']} are" if unfinished else "its seal is"
            raise ArtifactError(f"{folder}: {what} not done: give the command of `search encode` again.")
        self.artifact = Artifact.open(self.folder, KIND)
        self.sources = [str(folder)]
        self.fingerprint = self.artifact.manifest.fingerprint
        self.parents = {KIND: self.artifact}
        self.models = plan["models"]
        self.shards: int = plan["shards"]
        self.settings = decode(EncodeSettings, plan["encode"], where=str(folder))
        self.retrievers = as_retrievers(encoder)
        for retriever in self.retrievers:
            if self.models.get(retriever.mode, {}).get("fingerprint") != retriever.fingerprint:
                raise ArtifactError(f"{folder}: was not encoded with the given model for {retriever.mode} search.")

    @property
    def skipped(self) -> Counter[str]:
        return Counter(self.artifact.manifest.metrics["skipped"])

    def documents(self, start: int) -> Iterator[DocumentPassages]:
        shards = [self._shard(number, start) for number in range(1, self.shards + 1)]
        yield from heapq.merge(*shards, key=lambda piece: piece.number)

    def sample(self) -> list[Point]:
        return sample_passages((piece.document, piece.passages) for piece in self.documents(0))

    def _shard(self, number: int, start: int) -> Iterator[DocumentPassages]:
        for file in part_files(shard_folder(self.folder, number)):
            if read_part_note(file)["next"] > start:
                yield from (piece for piece in unpack_part(file) if piece.number >= start)


def unpack_part(file: Path) -> list[DocumentPassages]:
    """Return the documents of a part, with the embeddings of their passages. Raises `ArtifactError`."""
    try:
        tensors = safetensors.numpy.load_file(file)
        lines = [json.loads(line) for line in tensors["documents"].tobytes().decode().split("\n")]
    except Exception as error:
        raise ArtifactError(f"{file}: damaged: {error}") from error
    columns = {name: _column(name, tensors) for name in ("dense", "sparse", "multi_vector")}
    pieces, row = [], 0
    for place, document, passages in lines:
        points = []
        for number, text, payload in passages:
            own = {name: column[row] for name, column in columns.items() if column is not None}
            points.append(dataclasses.replace(Point(document, number, text, None, payload), **own))
            row += 1
        pieces.append(DocumentPassages(document, points, place))
    return pieces


def _column(name: str, tensors: dict[str, np.ndarray]) -> Sequence[Any] | None:
    """For each passage the vector (H,), the `SparseVector` or the token vectors (n, K); None if the part has none."""
    if name == "dense":
        return list(tensors[name]) if name in tensors else None
    if f"{name}.ends" not in tensors:
        return None
    cuts = tensors[f"{name}.ends"][:-1]
    if name == "multi_vector":
        return np.split(tensors["multi_vector.rows"], cuts)
    term_ids, weights = (np.split(tensors[f"sparse.{name}"], cuts) for name in ("term_ids", "weights"))
    return [SparseVector(ids.astype(np.int64), values) for ids, values in zip(term_ids, weights, strict=True)]


def build_encoded(
    folder: str | Path,
    out: str | Path,
    encoder: Any = None,
    settings: IndexSettings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BuiltIndex:
    """Build an index from a folder of encoded documents; see `build`. Its passages are those of the folder.

    Without the model, the weight of hybrid ranking is a default unless it is given. Raises `InputError` if the settings
    ask for other passages."""
    source = EncodedSource(folder, encoder)
    settings = settings or IndexSettings()
    if settings.passages not in (Passages(), source.settings.passages):
        raise InputError(
            f"{folder}: its documents are divided already, with {source.settings.passages}; leave the setting out."
        )
    settings = dataclasses.replace(settings, passages=source.settings.passages, text=source.settings.text)
    return build_from(source, out, settings, overwrite, progress)
