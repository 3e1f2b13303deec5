"""How a point looks inside an engine: its payload, its fields, and what a query must fit.

Shapes: H width of a vector, n tokens, K width of a token's vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.search.store import DOCUMENT, METADATA, NUMBER, TEXT, Point, SparseVector


def payload_of(point: Point) -> dict[str, Any]:
    """A point's payload with its place and its text, as an engine keeps it."""
    metadata = {key: storable(value) for key, value in point.payload.get(METADATA, {}).items()}
    own = {DOCUMENT: point.document, NUMBER: point.number, TEXT: point.text, METADATA: metadata}
    return {**point.payload, **own}


def point_of(
    payload: Mapping[str, Any], vector: np.ndarray | None, terms: SparseVector | None, tokens: np.ndarray | None
) -> Point:
    """The point of a payload that `payload_of` made."""
    rest = dict(payload)
    document, number, text = rest.pop(DOCUMENT), rest.pop(NUMBER), rest.pop(TEXT)
    return Point(document, number, text, vector, rest, terms, tokens)


def terms_of(sparse: Any) -> SparseVector:
    """An engine's sparse vector as ours, its words rising."""
    words, weights = np.asarray(sparse.indices, np.int64), np.asarray(sparse.values, np.float32)
    order = np.argsort(words, kind="stable")
    return SparseVector(words[order], weights[order])


def storable(value: Any) -> Any:
    """The engine's Python binding compares truth values as numbers and refuses NaN: both are stored as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def check_query(folder: Path, held: int | None, asked: int, what: str) -> None:
    """Raises `InputError` where a store holds no such field, None, or one of another width."""
    if held is None:
        raise InputError(f"{folder}: was made without {what}; search it by words (bm25), or by what it was made with.")
    if held != asked:
        raise InputError(f"{folder}: holds {what} of width {held}, the query's have width {asked}.")
