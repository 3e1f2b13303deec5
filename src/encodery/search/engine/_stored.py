"""How a point is stored in an engine: its payload and its fields, and what a query must match.

Shapes: H dimension of a dense vector, n tokens, K dimension of a token's vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.search.store import DOCUMENT, METADATA, NUMBER, TEXT, WORDS, Point, SparseVector


def payload_of(point: Point) -> dict[str, Any]:
    """Return a point's payload with its document, number and text, as an engine stores it."""
    metadata = {key: storable(value) for key, value in point.payload.get(METADATA, {}).items()}
    own = {DOCUMENT: point.document, NUMBER: point.number, TEXT: point.text, METADATA: metadata}
    return {**point.payload, **own}


def point_of(
    payload: Mapping[str, Any], vector: np.ndarray | None, terms: SparseVector | None, tokens: np.ndarray | None
) -> Point:
    """Return the point of a payload that `payload_of` made."""
    rest = dict(payload)
    rest.pop(WORDS, None)
    document, number, text = rest.pop(DOCUMENT), rest.pop(NUMBER), rest.pop(TEXT)
    return Point(document, number, text, vector, rest, terms, tokens)


def terms_of(sparse: Any) -> SparseVector:
    """Return an engine's sparse vector as ours, with rising term ids."""
    words, weights = np.asarray(sparse.indices, np.int64), np.asarray(sparse.values, np.float32)
    order = np.argsort(words, kind="stable")
    return SparseVector(words[order], weights[order])


def storable(value: Any) -> Any:
    """Return a value that the engine can store: its Python binding compares booleans as numbers and rejects NaN, so
    both become text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def check_query(folder: Path, dim: int | None, query_dim: int, what: str) -> None:
    """Raise `InputError` if a store has no such field (`dim` None), or one of another dimension."""
    if dim is None:
        raise InputError(f"{folder}: was built without {what}; search it by BM25, or by what it was built with.")
    if dim != query_dim:
        raise InputError(f"{folder}: holds {what} of dimension {dim}; those of the query have {query_dim}.")
