"""Read the rows of Parquet files, and of folders saved by Hugging Face's `datasets`.

Class numbers are replaced by class names. The class number -1 means unlabelled and becomes None.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError, InputError
from encodery.base.extras import require

BATCH_ROWS = 4096
STATE = "state.json"
SPLITS = "dataset_dict.json"


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 1, row). Raises `InputError` if it is not a Parquet file."""
    parquet, arrow = require("pyarrow.parquet", "corpus"), require("pyarrow", "corpus")
    try:
        with parquet.ParquetFile(path) as file:
            yield from _rows(file.iter_batches(BATCH_ROWS), file.schema_arrow)
    except (arrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from error


def is_saved_dataset(folder: Path) -> bool:
    """Return whether a folder was saved by `datasets`."""
    return (folder / SPLITS).is_file() or (folder / STATE).is_file()


def saved_splits(folder: Path) -> dict[str, list[Path]]:
    """Return split -> shards of a folder saved by `datasets`. Raises `ArtifactError` if a file is missing."""
    if (folder / SPLITS).is_file():
        return {name: _shards(folder / name) for name in _json(folder / SPLITS).get("splits", [])}
    return {str(_json(folder / STATE).get("_split") or "train"): _shards(folder)}


def arrow_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 1, row) of an .arrow shard. Raises `InputError`."""
    arrow = require("pyarrow", "corpus")
    try:
        with arrow.memory_map(str(path)) as source, arrow.ipc.open_stream(source) as reader:
            yield from _rows(_sliced(reader), reader.schema)
    except (arrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as an Arrow stream: {error}") from error


def _sliced(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches in slices, so that few rows are Python objects at a time."""
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


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
    """Return column -> class names, which `datasets` stores in the metadata of the schema."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    classes = {}
    for name, feature in features.items():
        inner = feature
        while isinstance(inner, Mapping) and isinstance(inner.get("feature"), Mapping):
            inner = inner["feature"]
        if isinstance(inner, list) and len(inner) == 1:
            inner = inner[0]
        if isinstance(inner, Mapping) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            classes[name] = list(inner["names"])
    return classes


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _shards(folder: Path) -> list[Path]:
    state = _json(folder / STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ArtifactError(
            f"{folder}: was saved with an index of selected rows; call flatten_indices() and save it again."
        )
    shards = [folder / one["filename"] for one in state.get("_data_files", [])]
    for shard in shards:
        if not shard.is_file():
            raise ArtifactError(f"{shard}: is listed in {STATE} but missing.")
    return shards


def _json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from error
    return dict(table)
