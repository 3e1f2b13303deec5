"""Texts from files and embeddings to files, one part at a time. Shapes: N vectors in all, K dimension of a vector."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from encodery.base.artifact import translate_disk_full
from encodery.base.errors import InputError, nearest

HEADER_BYTES = 128  # Of a .npy file, whatever N is.
FORMATS = (".npy", ".jsonl")


def read_texts(path: Path, column: str = "text") -> Iterator[str]:
    """One text per line, blank lines included, so that texts and embeddings stay aligned; of .jsonl files the column.

    Raises `InputError` with the file and the line for anything that is not a text.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name one file, with a text per line or with JSON lines.")
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                text = line.rstrip("\r\n")
                yield _column_of(text, column, f"{path}, line {number}") if path.suffix == ".jsonl" else text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, after line {number}: is not UTF-8 text.") from error


def _column_of(line: str, column: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: is not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        known = list(map(str, row)) if isinstance(row, dict) else []
        raise InputError(
            f"{where}: has no text in column '{column}'.{nearest(column, known)} Its columns: "
            f"{', '.join(known) or 'none'}."
        )
    return str(row[column])


class EmbeddingFile:
    """Writes vectors (n, K), part by part, to a .npy or .jsonl file, which appears complete or not at all.

    Raises `InputError` for another format, `DiskFull`.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        if path.suffix not in FORMATS:
            raise InputError(f"{path}: vectors are written to {' or '.join(FORMATS)} files, not to '{path.suffix}'.")
        self.path, self.dimension, self.count = path, dimension, 0
        self._draft = path.with_name(f".{path.name}.draft")
        self._file: BinaryIO | None = None

    def __enter__(self) -> EmbeddingFile:
        self._file = self._draft.open("wb")
        if self.path.suffix == ".npy":
            self._file.write(_header(0, self.dimension))
        return self

    def write(self, vectors: np.ndarray) -> None:
        """Append vectors (n, K)."""
        assert self._file is not None
        with translate_disk_full(self.path):
            if self.path.suffix == ".npy":
                self._file.write(np.ascontiguousarray(vectors, "<f4").data)
            else:
                lines = (json.dumps({"vector": [round(v, 7) for v in row]}) + "\n" for row in vectors.tolist())
                self._file.write("".join(lines).encode())
        self.count += len(vectors)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        with translate_disk_full(self.path):
            try:
                if kind is None and self.path.suffix == ".npy":
                    self._file.seek(0)
                    self._file.write(_header(self.count, self.dimension))
                self._file.flush()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()
                if kind is not None:
                    self._draft.unlink()
        if kind is None:
            self._draft.replace(self.path)


def _header(count: int, dimension: int) -> bytes:
    """The header of version 1.0 of the .npy format, padded to a fixed length."""
    table = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {dimension}), }}"
    length = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + table.ljust(length - 1).encode() + b"\n"
