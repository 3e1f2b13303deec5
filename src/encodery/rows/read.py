"""A file or folder of labelled rows to tables by split: train, dev, test.

CSV, TSV, JSON lines (or one JSON list, or SQuAD's own layout), parquet, CoNLL, .txt (a text a line), all but parquet
also as .gz, .xz or .zst; a folder of such files named by split, or with folders so named; a folder that Hugging Face's
`datasets` saved. A column `split` of a single file parts its rows.
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
    """Split -> its rows. A file that names no split is "train".

    Raises `InputError` naming file and line for what cannot be read, `EmptyInput` where there are no rows.
    """
    at = Path(path)
    if not at.exists():
        raise InputError(f"{at}: no such file or folder.{nearest(at.name, _neighbours(at))}")
    if at.is_file():
        return _by_column(read_file(at, split_of(at) or "train"))
    if arrow.is_saved_dataset(at):
        files = {SPLITS.get(name, name): shards for name, shards in arrow.saved_splits(at).items()}
    else:
        files = _files(at)
    tables = {name: reduce(Table.concat, (read_file(one, name) for one in shards)) for name, shards in files.items()}
    return _by_column(next(iter(tables.values()))) if list(tables) == ["train"] else tables


def read_file(path: Path, name: str = "train") -> Table:
    """The rows of one file. Raises `InputError` naming file and line, `EmptyInput`."""
    kind = file_format(path)
    if kind not in READERS:
        raise InputError(
            f"{path}: its format is not known by its name. Known are {', '.join(READERS)}, "
            f"packed as {', '.join(COMPRESSIONS)} or not."
        )
    if kind in BINARY and path.suffix.lower() in COMPRESSIONS:
        raise InputError(f"{path}: {kind} is packed by itself; unpack {path.suffix} first.")
    table = table_from_rows(name, str(path), READERS[kind](path), "row" if kind in BINARY else "line")
    if not len(table):
        raise EmptyInput(f"{path}: holds no rows.")
    if kind in BINARY:
        return table
    with open_text(path) as (_, notes):
        return replace(table, warnings=notes)


def split_of(path: Path) -> str:
    """The split that a file's or folder's name begins with, as in train-00000-of-00002.parquet; else nothing."""
    return SPLITS.get(re.split(r"[.\-_]", path.name.lower())[0], "")


def json_rows(path: Path) -> Rows:
    """Each object of a file of JSON lines with its line, or of the list that the file is, with its number from 1."""
    with open_text(path) as (text, _):
        for number, line in enumerate(text, 1):
            if number == 1 and line.lstrip().startswith("["):
                yield from _listed(path, line + text.read())
                return
            if line.strip():
                row = _object(line, f"{path}, line {number}")
                if number == 1 and _is_squad(row):
                    yield from _squad(row, str(path))
                else:
                    yield number, row


def text_rows(path: Path) -> Rows:
    """Each line that is not blank, as `text`."""
    with open_text(path, None) as (text, _):
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, {"text": line.strip()}


def _is_squad(row: dict[str, Any]) -> bool:
    data = row.get("data")
    return isinstance(data, list) and all(isinstance(one, dict) and "paragraphs" in one for one in data)


def _squad(file: dict[str, Any], where: str) -> Rows:
    """Each question of SQuAD's file (arXiv:1606.05250), with its number from 1. Raises `InputError` for what lacks."""
    number = 0
    try:
        for article in file["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    row = {"id": asked.get("id"), "title": article.get("title"), "context": paragraph["context"]}
                    answers = [{"text": one["text"], "answer_start": one["answer_start"]} for one in asked["answers"]]
                    row |= {"question": asked["question"], "answers": answers}
                    number += 1
                    yield number, row
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}, question {number + 1}: is not as SQuAD has it: {error!r}.") from error


def _listed(path: Path, text: str) -> Rows:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: is no JSON: {error}") from error
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number}: an object is needed, not {json.dumps(row)[:40]}.")
        yield number, row


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: is no JSON: {error}") from error
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
    """Split -> its files, of a folder. Raises `InputError` where none says its split, or one split has two formats."""
    found: dict[str, list[Path]] = {}
    inside = sorted(folder.iterdir())
    for path in inside:
        name = split_of(path)
        if name and path.is_dir():
            found.setdefault(name, []).extend(sorted(one for one in path.iterdir() if file_format(one) in READERS))
        elif name and file_format(path) in READERS:
            found.setdefault(name, []).append(path)
    found = {name: paths for name, paths in found.items() if paths}
    readable = [path for path in inside if path.is_file() and file_format(path) in READERS]
    if not found and len(readable) == 1:
        return {"train": readable}
    if not found and (folder / "data").is_dir():
        return _files(folder / "data")
    if not found:
        raise InputError(
            f"{folder}: holds no file named train, dev or test in {', '.join(READERS)}. "
            f"It has {', '.join(path.name for path in inside[:10]) or 'nothing'}."
        )
    for name, paths in found.items():
        kinds = sorted({file_format(path) for path in paths})
        if len(kinds) > 1:
            raise InputError(f"{folder}: split '{name}' is there as {' and as '.join(kinds)}; keep one of them.")
    return {name: found[name] for name in ("train", "dev", "test") if name in found}


def _by_column(table: Table) -> dict[str, Table]:
    """The rows parted by their column `split`, where it names nothing but splits."""
    if SPLIT not in table:
        return {table.name: table}
    said = np.array([SPLITS.get(str(value).lower(), "") for value in table[SPLIT]])
    if not all(said):
        return {table.name: table}
    rest = table.without(SPLIT)
    return {name: rest.take(said == name, name) for name in ("train", "dev", "test") if (said == name).any()}


def _neighbours(path: Path) -> list[str]:
    return [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
