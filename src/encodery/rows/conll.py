"""Read sentences of CoNLL files: one token per line, followed by its tags, and a blank line between sentences.

Cells are separated by tabs if the line contains one, otherwise by spaces. Lines of -DOCSTART- and comments before a
sentence are skipped. The first cell is the token (`tokens`), the last its tag (`tags`), those between are `column2` and
so on.
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
    """Yield (number of its first line, sentence). Raises `InputError` naming file and line, and `EmptyInput`."""
    width, start = 0, 0
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
                    f"{path}, line {number}: has {len(cells)} cells instead of {max(width, 2)}: a token and its tags."
                )
            start = number if not sentence else start
            sentence.append(cells)
    if sentence:
        yield start, _row(sentence)
    if not start:
        raise EmptyInput(f"{path}: contains no sentences.")


def _cells(line: str) -> list[str]:
    line = line.strip("\r\n")
    return [cell.strip() for cell in line.split("\t")] if "\t" in line.strip() else line.split()


def _row(sentence: list[list[str]]) -> dict[str, Any]:
    first, *between, last = (list(cells) for cells in zip(*sentence, strict=True))
    others = {f"column{number}": cells for number, cells in enumerate(between, 2)}
    return {"tokens": first, "tags": last, **others}
