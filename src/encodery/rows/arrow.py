"""Rows of parquet files and of folders that Hugging Face's `datasets` saved; numbers of classes become their names.

A class number of -1 means unlabelled there, and is None here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError, InputError
from encodery.base.extras import require

AT_ONCE = 4096
STATE = "state.json"
SPLITS = "dataset_dict.json"


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its number from 1. Raises `InputError` for what is no parquet file."""
    parquet, arrow = require("pyarrow.parquet", "corpus"), require("pyarrow", "corpus")
    try:
        with parquet.ParquetFile(path) as file:
            yield from _rows(file.iter_batches(AT_ONCE), file.schema_arrow)
    except (arrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet: {error}") from error


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` saved this folder."""
    return (folder / SPLITS).is_file() or (folder / STATE).is_file()


def saved_splits(folder: Path) -> dict[str, list[Path]]:
    """Split -> its shards, of a folder that `datasets` saved. Raises `ArtifactError` for what is missing in it."""
    if (folder / SPLITS).is_file():
        return {name: _shards(folder / name) for name in _json(folder / SPLITS).get("splits", [])}
    return {str(_json(folder / STATE).get("_split") or "train"): _shards(folder)}


def arrow_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row of an .arrow shard with its number from 1. Raises `InputError`."""
    arrow = require("pyarrow", "corpus")
    try:
        with arrow.memory_map(str(path)) as source, arrow.ipc.open_stream(source) as reader:
            yield from _rows(_sliced(reader), reader.schema)
    except (arrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as an arrow stream: {error}") from error


def _sliced(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches in pieces, so that few rows are Python objects at a time."""
    for batch in batches:
        for start in range(0, batch.num_rows, AT_ONCE):
            yield batch.slice(start, AT_ONCE)


def _rows(batches: Iterable[Any], schema: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    classes = _classes(schema.metadata or {})
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            for name, names in classes.items():
                row[name] = _named(row[name], names)
            yield number, row


def _classes(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> the names of its classes, as `datasets` notes them in the schema."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    found = {}
    for name, feature in features.items():
        inner = feature
        while isinstance(inner, Mapping) and isinstance(inner.get("feature"), Mapping):
            inner = inner["feature"]
        if isinstance(inner, list) and len(inner) == 1:
            inner = inner[0]
        if isinstance(inner, Mapping) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[name] = list(inner["names"])
    return found


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _shards(folder: Path) -> list[Path]:
    state = _json(folder / STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ArtifactError(f"{folder}: was saved with a selection of rows apart; save it after flatten_indices().")
    shards = [folder / one["filename"] for one in state.get("_data_files", [])]
    for shard in shards:
        if not shard.is_file():
            raise ArtifactError(f"{shard}: is named by {STATE}, and is missing.")
    return shards


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from error
    return dict(found)
