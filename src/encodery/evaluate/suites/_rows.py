"""Rows of a labelled file or folder, by split and by the columns a suite wants.

.jsonl, .csv and .tsv, also compressed (.gz, .xz, .zst); splits are files of a folder or values of a column "split".
"""

from __future__ import annotations

import csv
import gzip
import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from encodery.base.errors import EmptyInput, InputError, nearest

FORMATS = (".jsonl", ".csv", ".tsv")
PACKED = (".gz", ".xz", ".zst")
SPLIT = "split"
SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "test": "test"}


class Row(NamedTuple):
    """`where`: file and line, for messages."""

    where: str
    values: Mapping[str, Any]


def splits_of(data: Path) -> dict[str, list[Row]]:
    """The rows of each split; "" for those that say none. Raises `InputError`, `EmptyInput`."""
    if data.is_dir():
        named = {SPLITS[_stem(path)]: path for path in sorted(data.iterdir()) if _stem(path) in SPLITS}
        if not named:
            raise InputError(f"{data}: holds no train, dev or test file in {', '.join(FORMATS)}.")
        return {split: list(rows_of(path)) for split, path in named.items()}
    found: dict[str, list[Row]] = {}
    for row in rows_of(data):
        split = str(row.values.get(SPLIT) or "")
        found.setdefault(SPLITS.get(split.lower(), split), []).append(row)
    if not found:
        raise EmptyInput(f"{data}: holds no rows.")
    return found


def chosen(data: Path, split: str) -> list[Row]:
    """The rows of one split; of the test, else dev, else only split where `split` is empty."""
    held = splits_of(data)
    if split:
        if split not in held:
            known = [name for name in held if name]
            raise InputError(f"{data}: has no split '{split}'.{nearest(split, known)} It has {', '.join(known)}.")
        return held[split]
    return next((held[name] for name in ("test", "dev") if name in held), None) or next(iter(held.values()))


def cells(
    rows: Sequence[Row], role: str, column: str, usual: Sequence[str], kind: type | tuple[type, ...]
) -> list[Any]:
    """One column: `column` where given, else the first of the usual names. Raises `InputError` naming the row."""
    if not rows:
        raise EmptyInput("There are no rows.")
    names = list(rows[0].values)
    name = column or next((name for name in usual if name in names), "")
    if name not in names:
        asked = f"has no column '{column}'.{nearest(column, names)}" if column else f"says not which column is {role}."
        raise InputError(f"{rows[0].where}: {asked} It has {', '.join(names)}; usual names are {', '.join(usual)}.")
    return [_typed(row, name, kind) for row in rows]


def _typed(row: Row, name: str, kind: type | tuple[type, ...]) -> Any:
    value = row.values.get(name)
    if kind is float:
        try:
            number = float(cast("Any", value))
        except (TypeError, ValueError):
            number = float("nan")
        if number != number:
            raise InputError(f"{row.where}: '{name}' is {value!r}, a number is needed.")
        return number
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{row.where}: '{name}' is {value!r}, which cannot be used here.")
    return value


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of one file. Raises `InputError` naming file and line."""
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    kind = _kind(path)
    if kind not in FORMATS:
        raise InputError(f"{path}: is none of {', '.join(FORMATS)} (also with {', '.join(PACKED)}).")
    with _opened(path) as lines:
        if kind == ".jsonl":
            yield from _json_rows(path, lines)
            return
        reader = csv.DictReader(lines, delimiter="\t" if kind == ".tsv" else ",")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{path}, line {reader.line_num}: has another number of cells than the first line.")
            yield Row(f"{path}, line {reader.line_num}", row)


def _json_rows(path: Path, lines: IO[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: an object is needed, not {line.strip()[:40]}")
        yield Row(f"{path}, line {number}", row)


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8-sig", newline="")
    if path.suffix == ".gz":
        return cast("IO[str]", gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    if path.suffix == ".zst":
        import zstandard

        return cast("IO[str]", zstandard.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _kind(path: Path) -> str:
    name = path.with_suffix("") if path.suffix in PACKED else path
    return name.suffix


def _stem(path: Path) -> str:
    return path.name.split(".")[0].lower() if _kind(path) in FORMATS else ""
