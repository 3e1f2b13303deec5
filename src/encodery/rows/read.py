"""Read a file or folder of labelled rows into tables by split: train, dev, test.

Files: CSV, TSV, JSON lines (or one JSON list, or the layout of SQuAD), Parquet, CoNLL, .txt (one text per line); all
but Parquet also compressed as .gz, .xz or .zst. Folders: such files, or subfolders of them, named by split; or a folder
saved by Hugging Face's `datasets`. The rows of a single file are split by its column `split`, if there is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import EmptyInput, InputError, nearest
from encodery.rows import arrow, conll, delimited
from encodery.rows.table import Table, table_from_rows
from encodery.rows.text_files import COMPRESSIONS, file_format, open_text

SPLIT = "split"
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "val", "development"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
Rows = Iterator[tuple[int, dict[str, Any]]]


def read_tables(path: str | Path) -> dict[str, Table]:
    """Return split -> table. A file whose name contains no split is "train".

    Raises `InputError` naming file and line if it cannot be read, `EmptyInput` if there are no rows.
    """
    source = Path(path)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder.{nearest(source.name, _siblings(source))}")
    if source.is_file():
        return _by_column(read_file(source, split_of(source) or "train"))
    if arrow.is_saved_dataset(source):
        files = {SPLITS.get(name, name): shards for name, shards in arrow.saved_splits(source).items()}
    else:
        files = _files(source)
    tables = {name: reduce(Table.concat, (read_file(one, name) for one in shards)) for name, shards in files.items()}
    return _by_column(next(iter(tables.values()))) if list(tables) == ["train"] else tables


def read_file(path: Path, name: str = "train") -> Table:
    """Return the rows of one file. Raises `InputError` naming file and line, and `EmptyInput`."""
    kind = file_format(path)
    if kind not in READERS:
        raise InputError(
            f"{path}: the format is not known from the name. Formats: {', '.join(READERS)}, "
            f"also compressed as {', '.join(COMPRESSIONS)}."
        )
    if kind in BINARY and path.suffix.lower() in COMPRESSIONS:
        raise InputError(f"{path}: {kind} files are compressed internally; decompress the {path.suffix} first.")
    table = table_from_rows(name, str(path), READERS[kind](path), "row" if kind in BINARY else "line")
    if not len(table):
        raise EmptyInput(f"{path}: contains no rows.")
    if kind in BINARY:
        return table
    with open_text(path) as (_, warnings):
        return replace(table, warnings=warnings)


def split_of(path: Path) -> str:
    """Return the split with which a name starts, as in train-00000-of-00002.parquet, or an empty string."""
    return SPLITS.get(re.split(r"[.\-_]", path.name.lower())[0], "")


def json_rows(path: Path) -> Rows:
    """Yield (line number, object) of a file of JSON lines, or (number from 1, object) of a JSON list."""
    with open_text(path) as (text, _):
        for number, line in enumerate(text, 1):
            if number == 1 and line.lstrip().startswith("["):
                yield from _list_rows(path, line + text.read())
                return
            if line.strip():
                row = _object(line, f"{path}, line {number}")
                if number == 1 and _is_squad(row):
                    yield from _squad(row, str(path))
                else:
                    yield number, row


def text_rows(path: Path) -> Rows:
    """Yield (line number, {"text": line}) of each line that is not blank."""
    with open_text(path, None) as (text, _):
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, {"text": line.strip()}


def _is_squad(row: dict[str, Any]) -> bool:
    data = row.get("data")
    return isinstance(data, list) and all(isinstance(article, dict) and "paragraphs" in article for article in data)


def _squad(file: dict[str, Any], where: str) -> Rows:
    """Yield (number from 1, question) of a SQuAD file (arXiv:1606.05250). Raises `InputError` for missing fields."""
    number = 0
    try:
        for article in file["data"]:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    row = {"id": qa.get("id"), "title": article.get("title"), "context": paragraph["context"]}
                    answers = [{"text": one["text"], "answer_start": one["answer_start"]} for one in qa["answers"]]
                    row |= {"question": qa["question"], "answers": answers}
                    number += 1
                    yield number, row
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}, question {number + 1}: does not have the layout of SQuAD: {error!r}.") from error


def _list_rows(path: Path, text: str) -> Rows:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number}: an object is needed, not {json.dumps(row)[:40]}.")
        yield number, row


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: an object is needed, not {line.strip()[:40]}")
    return row


BINARY = (".parquet", ".arrow")
READERS: dict[str, Callable[[Path], Rows]] = {
    ".csv": delimited.rows,
    ".tsv": delimited.rows,
    ".jsonl": json_rows,
    ".json": json_rows,
    ".txt": text_rows,
    ".parquet": arrow.parquet_rows,
    ".arrow": arrow.arrow_rows,
    **dict.fromkeys(conll.FORMATS, conll.rows),
}


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return split -> files of a folder. Raises `InputError` if no name has a split, or a split has two formats."""
    files: dict[str, list[Path]] = {}
    entries = sorted(folder.iterdir())
    for path in entries:
        name = split_of(path)
        if name and path.is_dir():
            files.setdefault(name, []).extend(sorted(one for one in path.iterdir() if file_format(one) in READERS))
        elif name and file_format(path) in READERS:
            files.setdefault(name, []).append(path)
    files = {name: paths for name, paths in files.items() if paths}
    readable = [path for path in entries if path.is_file() and file_format(path) in READERS]
    if not files and len(readable) == 1:
        return {"train": readable}
    if not files and (folder / "data").is_dir():
        return _files(folder / "data")
    if not files:
        raise InputError(
            f"{folder}: contains no file named train, dev or test with a suffix of {', '.join(READERS)}. "
            f"It contains {', '.join(path.name for path in entries[:10]) or 'nothing'}."
        )
    for name, paths in files.items():
        kinds = sorted({file_format(path) for path in paths})
        if len(kinds) > 1:
            raise InputError(f"{folder}: split '{name}' exists as {' and as '.join(kinds)}; keep one of them.")
    return {name: files[name] for name in ("train", "dev", "test") if name in files}


def _by_column(table: Table) -> dict[str, Table]:
    """Return the rows by their column `split`, if it contains nothing but names of splits."""
    if SPLIT not in table:
        return {table.name: table}
    splits = np.array([SPLITS.get(str(value).lower(), "") for value in table[SPLIT]])
    if not all(splits):
        return {table.name: table}
    rest = table.without(SPLIT)
    return {name: rest.take(splits == name, name) for name in ("train", "dev", "test") if (splits == name).any()}


def _siblings(path: Path) -> list[str]:
    return [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
