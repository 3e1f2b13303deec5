"""Sentences of CoNLL files: a token a line, its tags behind it, a blank line between sentences.

Cells are parted by tabs where the line has one, else by blanks. Lines of -DOCSTART- and comments before a sentence are
left out. First cell: `tokens`; last: `tags`; those between: `column2` and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from encodery.base.errors import EmptyInput, InputError
from encodery.rows.text_files import open_text

FORMATS = (".conll", ".conll2003", ".bio", ".iob", ".iob2")
BREAK = "-DOCSTART-"


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each sentence with its first line. Raises `InputError` naming file and line, `EmptyInput`."""
    width, start, found = 0, 0, False
    sentence: list[list[str]] = []
    with open_text(path, None) as (text, _):
        for number, line in enumerate(text, 1):
            cells = _cells(line)
            if not cells:
                if sentence:
                    yield start, _row(sentence)
                sentence = []
                continue
            if not sentence and cells[0].startswith("#") and len(cells) != (width or 2):
                continue
            if cells[0] == BREAK:
                width = width or len(cells)
                continue
            width = width or len(cells)
            if len(cells) != width or width < 2:
                raise InputError(
                    f"{path}, line {number}: has {len(cells)} cells, {max(width, 2)} are needed: token and tag."
                )
            start, found = number if not sentence else start, True
            sentence.append(cells)
    if sentence:
        yield start, _row(sentence)
    if not found:
        raise EmptyInput(f"{path}: holds no sentences.")


def _cells(line: str) -> list[str]:
    line = line.strip("\r\n")
    return [cell.strip() for cell in line.split("\t")] if "\t" in line.strip() else line.split()


def _row(sentence: list[list[str]]) -> dict[str, Any]:
    first, *between, last = (list(cells) for cells in zip(*sentence, strict=True))
    named = {f"column{place}": cells for place, cells in enumerate(between, 2)}
    return {"tokens": first, "tags": last, **named}
