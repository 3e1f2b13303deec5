"""Which column of a table of rows holds the text, and what of the rest is kept as metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from encodery.base.errors import nearest
from encodery.corpus.encoding import UnusableFile

TEXT_COLUMN_NAMES = (
    "text",
    "content",
    "body",
    "document",
    "article",
    "passage",
    "raw_content",
    "abstract",
    "sentence",
    "contents",
)
HEAD_ROWS = 100
LONGEST_VALUE = 500


def text_column(rows: Iterable[Mapping[str, Any]], requested: str) -> str:
    """The column to read: `wanted`, or for `auto` a usual name, else the one with the longest texts in `rows`.

    Raises `Unusable("no_text_column")` listing what there is.
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
        raise UnusableFile(
            "no_text_column", f"no column '{requested}'.{nearest(requested, columns)} It has {_listed(columns)}"
        )
    for name in TEXT_COLUMN_NAMES:
        if name in lengths:
            return name
    if not lengths:
        raise UnusableFile("no_text_column", f"no column of text among {_listed(columns)}")
    return max(lengths, key=lambda key: lengths[key])


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(str, list(columns)[:20])) or "none"


def metadata_of(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    """The short plain values of a row beside its text; a nested `metadata` table is laid open."""
    kept: dict[str, Any] = {}
    inner = row.get("metadata")
    for table in (inner if isinstance(inner, Mapping) else {}, row):
        for key, value in table.items():
            plain = isinstance(value, int | float | bool) or (isinstance(value, str) and len(value) <= LONGEST_VALUE)
            if key is not None and key != column and plain and value == value:
                kept[str(key)] = value
    return kept
