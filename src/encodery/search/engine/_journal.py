"""Keeps the passages of an in-memory Qdrant: a file of changes, one per line, which is replayed when it is opened.

A line is complete or missing: a process that is killed loses at most the change it was writing."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.artifact import atomic_write, translate_disk_full
from encodery.base.errors import ArtifactError
from encodery.search.engine._stored import payload_of, point_of
from encodery.search.store import Point, SparseVector

FILE, LOCK = "journal.jsonl", "lock"


class PointJournal:
    """The file in a store's folder, which one process may have open. Raises `ArtifactError` if another has."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = (folder / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ArtifactError(f"{folder}: is in use by another process; close it first.") from error

    def changes(self) -> Iterator[tuple[list[Point], list[str]]]:
        """Yield the points stored, or the ids removed, change by change."""
        if not self.path.is_file():
            return
        lines = self.path.read_bytes().split(b"\n")
        if lines.pop():
            self.path.write_bytes(b"\n".join([*lines, b""]))  # Drop the line that a killed process did not finish.
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                yield [_point(row) for row in entry.get("points", ())], entry.get("removed", [])
            except (ValueError, KeyError, TypeError) as error:
                raise ArtifactError(f"{self.path}: line {number} is damaged: {error}") from error

    def add(self, points: Sequence[Point] = (), removed: Sequence[str] = ()) -> None:
        """Write a change; it is on the disk when this returns."""
        line = json.dumps({"points": [_row(point) for point in points]} if points else {"removed": list(removed)})
        with translate_disk_full(self.path), self.path.open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def rewrite(self, batches: Iterable[Sequence[Point]]) -> None:
        """Replace the file by these points."""
        lines = [json.dumps({"points": [_row(point) for point in points]}) for points in batches]
        atomic_write(self.path, "".join(f"{line}\n" for line in lines))

    def close(self) -> None:
        """Let other processes open it."""
        self._lock.close()


def _row(point: Point) -> dict[str, Any]:
    row: dict[str, Any] = {"payload": payload_of(point)}
    if point.dense is not None:
        row["dense"] = point.dense.tolist()
    if point.sparse is not None:
        row["sparse"] = [point.sparse.term_ids.tolist(), point.sparse.weights.tolist()]
    if point.multi_vector is not None:
        row["multi_vector"] = point.multi_vector.tolist()
    return row


def _point(row: dict[str, Any]) -> Point:
    vector = np.array(row["dense"], np.float32) if "dense" in row else None
    words, weights = row.get("sparse", ([], []))
    terms = SparseVector(np.array(words, np.int64), np.array(weights, np.float32)) if "sparse" in row else None
    tokens = np.array(row["multi_vector"], np.float32) if "multi_vector" in row else None
    return point_of(row["payload"], vector, terms, tokens)
