"""Choose the column of a table that contains the text, and the other columns that are kept as metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from encodery.base.errors import nearest
from encodery.corpus.encoding import UnusableFile

TEXT_COLUMN_NAMES = (
    *("text", "content", "body", "document", "article", "passage", "raw_content", "abstract", "sentence"),
    "contents",
)
HEAD_ROWS = 100
MAX_VALUE_LENGTH = 500


def text_column(rows: Iterable[Mapping[str, Any]], requested: str) -> str:
    """Return the name of the column that contains the text.

    Args:
        rows: the first rows of the table.
        requested: a column name; "auto" takes a common name, or else the column with the longest texts in `rows`.

    Raises `UnusableFile("no_text_column")` listing the columns.
    """
    lengths: dict[str, int] = {}
    columns: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            columns[key] = None
            if isinstance(value, str):
                lengths[key] = lengths.get(key, 0) + len(value)
    if requested != "auto":
        if requested in columns:
            return requested
        hint = nearest(requested, columns)
        raise UnusableFile("no_text_column", f"no column '{requested}'.{hint} Columns: {_listed(columns)}")
    for name in TEXT_COLUMN_NAMES:
        if name in lengths:
            return name
    if not lengths:
        raise UnusableFile("no_text_column", f"no column contains text; columns: {_listed(columns)}")
    return max(lengths, key=lambda key: lengths[key])


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(str, list(columns)[:20])) or "none"


def metadata_of(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    """Return the short plain values of a row except its text; those of a nested `metadata` table are included."""
    metadata: dict[str, Any] = {}
    inner = row.get("metadata")
    for table in (inner if isinstance(inner, Mapping) else {}, row):
        for key, value in table.items():
            is_plain = isinstance(value, int | float | bool) or (
                isinstance(value, str) and len(value) <= MAX_VALUE_LENGTH
            )
            if key is not None and key != column and is_plain and value == value:
                metadata[str(key)] = value
    return metadata
