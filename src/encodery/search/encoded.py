"""A folder of encoded documents (`encode.py`) as what an index is made of: no model is run, nor needed.

Shapes: H width of a vector, n tokens of a passage, K width of a token's vector.
"""

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
from encodery.search.encode import KIND, EncodeSettings, parts, read_note, read_plan, shard_folder, still_open
from encodery.search.index import Built, IndexSettings, Progress, build_from
from encodery.search.passages import Passages
from encodery.search.sample import sampled_of
from encodery.search.sides import sides_of
from encodery.search.store import Point, Terms
from encodery.search.supply import Supply
from encodery.search.writer import Piece


class Encoded(Supply):
    """All documents of the folder, in their first order. `encoder`: the model (or several) it was made with, where they
    are at hand: then the weights of hybrid ranking can be measured. Raises `ArtifactError` for an unfinished folder and
    for another model."""

    def __init__(self, folder: str | Path, encoder: Any = None) -> None:
        self.folder = Path(folder)
        plan = read_plan(self.folder)
        unfinished = still_open(self.folder, plan["shards"])
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
        self.sides = sides_of(encoder)
        for side in self.sides:
            if self.models.get(side.mode, {}).get("fingerprint") != side.fingerprint:
                raise ArtifactError(f"{folder}: was not encoded with the given model for {side.mode} search.")

    @property
    def skipped(self) -> Counter[str]:
        return Counter(self.artifact.manifest.figures["skipped"])

    def pieces(self, start: int) -> Iterator[Piece]:
        shards = [self._shard(number, start) for number in range(1, self.shards + 1)]
        yield from heapq.merge(*shards, key=lambda piece: piece.number)

    def sample(self) -> list[Point]:
        return sampled_of((piece.document, piece.points) for piece in self.pieces(0))

    def _shard(self, number: int, start: int) -> Iterator[Piece]:
        for file in parts(shard_folder(self.folder, number)):
            if read_note(file)["next"] > start:
                yield from (piece for piece in unpacked(file) if piece.number >= start)


def unpacked(file: Path) -> list[Piece]:
    """The documents of a part, with their passages' columns. Raises `ArtifactError`."""
    try:
        tensors = safetensors.numpy.load_file(file)
        lines = [json.loads(line) for line in tensors["documents"].tobytes().decode().split("\n")]
    except Exception as error:
        raise ArtifactError(f"{file}: damaged: {error}") from error
    columns = {name: _column(name, tensors) for name in ("vector", "terms", "tokens")}
    pieces, row = [], 0
    for place, document, passages in lines:
        points = []
        for number, text, payload in passages:
            own = {name: column[row] for name, column in columns.items() if column is not None}
            points.append(dataclasses.replace(Point(document, number, text, None, payload), **own))
            row += 1
        pieces.append(Piece(document, points, place))
    return pieces


def _column(name: str, tensors: dict[str, np.ndarray]) -> Sequence[Any] | None:
    """Per passage a vector (H,), `Terms` or vectors of tokens (n, K); None where the part has none."""
    if name == "vector":
        return list(tensors[name]) if name in tensors else None
    if f"{name}.ends" not in tensors:
        return None
    cuts = tensors[f"{name}.ends"][:-1]
    if name == "tokens":
        return np.split(tensors["tokens.rows"], cuts)
    words, weights = (np.split(tensors[f"terms.{what}"], cuts) for what in ("words", "weights"))
    return [Terms(w.astype(np.int64), v) for w, v in zip(words, weights, strict=True)]


def build_encoded(
    folder: str | Path,
    out: str | Path,
    encoder: Any = None,
    settings: IndexSettings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Make an index of a folder of encoded documents. See `build`; passages are those of the folder.

    Without the model the weight of hybrid ranking is a fallback, unless given. Raises `InputError` where the settings
    ask for other passages.
    """
    supply = Encoded(folder, encoder)
    settings = settings or IndexSettings()
    if settings.passages not in (Passages(), supply.settings.passages):
        raise InputError(f"{folder}: its passages are cut already, with {supply.settings.passages}; leave that out.")
    settings = dataclasses.replace(settings, passages=supply.settings.passages, text=supply.settings.text)
    return build_from(supply, out, settings, overwrite, progress)
